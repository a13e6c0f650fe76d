"""A batch as a picture, so that targets can be checked against pixels by eye."""
