"""All systems on one set of axes: a figure that the paper does not have."""
