"""Where images come from, and the views that training sees of them."""

from headsearch.data.image.readers import Source
from headsearch.data.image.store import Images
from headsearch.data.image.torch_dataset import DatasetSource
from headsearch.data.image.views import ViewSettings, make_views, normalize
from headsearch.data.order import epoch_order
from headsearch.data.splits import Data, open_data

__all__ = [
    "Data",
    "DatasetSource",
    "Images",
    "Source",
    "ViewSettings",
    "epoch_order",
    "make_views",
    "normalize",
    "open_data",
]
