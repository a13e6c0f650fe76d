"""Graphs at work: from the number of a batch to its tensors."""
