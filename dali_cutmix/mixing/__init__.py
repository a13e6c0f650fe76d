"""Who is mixed with whom, where, and weighed how; one file per mix."""
