"""The network that is trained: a base with heads attached, and the search space of heads."""
