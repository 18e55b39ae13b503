"""Models: bases (timm), heads, the network that joins them, and the search space of heads."""
