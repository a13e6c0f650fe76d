"""Turn encoded bytes into images of one size: decode, crop, resize, augment, normalize."""
