"""Images with masks, boxes and instance masks (`--dense-data`): formats, reading, splits."""

from headsearch.data.dense.images import VOID, DenseData, DenseImages, Objects
from headsearch.data.dense.opening import DenseSettings, open_dense

__all__ = ["VOID", "DenseData", "DenseImages", "DenseSettings", "Objects", "open_dense"]
