"""Race loaders against each other: the same work in turns, checked, each in its own process."""
