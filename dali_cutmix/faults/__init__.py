"""Files that are broken: found, named, and stood in for."""
