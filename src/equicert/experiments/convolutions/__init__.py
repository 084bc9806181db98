"""Dense and convolutional networks, certified by radius, with what is published."""
