"""Image data: readers of folders, tars and datasets, decoding, storage, augmented views."""
