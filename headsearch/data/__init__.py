"""Where images come from, and the views that training sees of them."""

from headsearch.data.dataset import Data, open_data
from headsearch.data.images import Images
from headsearch.data.order import epoch_order
from headsearch.data.own_dataset import DatasetSource
from headsearch.data.sources import Source
from headsearch.data.views import ViewSettings, make_views, normalize

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
