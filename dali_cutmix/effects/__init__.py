"""What augmentations draw on the host, and what they do to images in the graph."""
