"""The built-in images: drawn scenes of textured shapes, a function of seed and index alone."""
