"""A torch loader of torchvision's parts, as the arguments of this package's `DataLoader`."""
