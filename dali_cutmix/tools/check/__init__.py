"""Find bad images, boxes and masks before a training run stops at them."""
