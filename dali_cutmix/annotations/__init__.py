"""What belongs to an image beside its pixels, and follows crop, flip and plan."""
