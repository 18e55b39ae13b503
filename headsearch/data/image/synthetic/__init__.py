"""The built-in dataset: rendered scenes of textured shapes, each determined by seed and index."""
