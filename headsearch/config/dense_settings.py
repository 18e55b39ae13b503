"""The settings of dense tasks: segmentation, detection and instance masks at every rung."""

from __future__ import annotations

from headsearch.config.panels import DENSE, setting

DATA = setting(
    None,
    "Images with masks or boxes on which heads are scored too: a folder with splits or without, "
    "TRAIN,EVAL, or built in: scenes, scenes-things.",
    DENSE,
)
FORMAT = setting(
    "auto",
    "Format of --dense-data: coco, voc, cityscapes, ade20k, pets, yolo, folders (of images and "
    "masks). auto: by its layout.",
    DENSE,
)
CLASSES = setting(
    None,
    "A file with a class of masks a line, NAME or NAME R G B, from class 0; or supercategory "
    "(COCO). [default: found in the data]",
    DENSE,
)
TILES = setting(
    False,
    "Cut dense images into tiles of the run's image size, in place of shrinking each to one "
    "square: for small objects; the cost grows with the number of tiles.",
    DENSE,
)
IGNORE = setting(
    None,
    "Values of masks that do not count, such as 0,255. [default: those of the format, else 255]",
    DENSE,
)
