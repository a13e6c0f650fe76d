"""Encoded bytes to images of one size: decode, crop, resize, augment, normalize."""
