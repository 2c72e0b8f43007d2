"""From images on disk to batches of two views: who comes when, what happens to a view, and who does it."""

from soda_fast.data.batch import Batch
from soda_fast.data.catalog import Dataset, load_dataset
from soda_fast.data.image_set import ImageSet
from soda_fast.data.loader import TrainLoader, iterate_views

__all__ = ["Batch", "Dataset", "ImageSet", "TrainLoader", "iterate_views", "load_dataset"]
