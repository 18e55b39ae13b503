"""Data of a run: reads and splits images, orders them, and makes augmented views for training."""

from headsearch.config.views import ViewSettings
from headsearch.data.image.readers import Source
from headsearch.data.image.store import Images
from headsearch.data.image.torch_dataset import DatasetSource
from headsearch.data.image.views import make_views, normalize
from headsearch.data.order import epoch_order
from headsearch.data.settings import DataSettings
from headsearch.data.splits import Data, open_data

__all__ = [
    "Data",
    "DataSettings",
    "DatasetSource",
    "Images",
    "Source",
    "ViewSettings",
    "epoch_order",
    "make_views",
    "normalize",
    "open_data",
]
