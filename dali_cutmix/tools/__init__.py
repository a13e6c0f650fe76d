"""The command line: one file per command, and what only commands use."""
