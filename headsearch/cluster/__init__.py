"""A search over many machines."""
