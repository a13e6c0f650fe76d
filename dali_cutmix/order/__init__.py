"""Whose samples come, in which order, and where a run stands."""
