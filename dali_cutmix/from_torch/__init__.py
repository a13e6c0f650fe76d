"""A torch loader with torchvision's parts, as arguments of `dali_cutmix.DataLoader`."""
