"""Find bad images, boxes, masks, clips and volumes before a training run stops at them."""
