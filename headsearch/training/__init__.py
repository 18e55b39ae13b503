"""Self-supervised training of a base with heads: set-up, trainer, loop, objectives."""
