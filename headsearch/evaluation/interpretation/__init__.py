"""Measures of what a base has learned, block by block: tensors in, numbers out."""
