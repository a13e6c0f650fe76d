"""Loaders against each other: the same work, interleaved, each in a process of its own, checked."""
