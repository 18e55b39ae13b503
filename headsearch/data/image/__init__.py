"""Image data: readers, decoding, the image store, augmented views."""
