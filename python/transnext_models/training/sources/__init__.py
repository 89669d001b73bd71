"""Images to train on, wherever they lie: one set of (image, label, name) for each split.

``find``             what --data names becomes a set for training and one for validation
``image_set``        what every set does; images are in the order of their classes, then names
``folders``          a folder per class                 ``tables``         CSV files
``archives``         archives of one class each         ``imagenet``       ImageNet as downloaded
``shards``           webdataset's, in random access     ``hugging_face``   data sets of the hub
``torchvision_sets`` torchvision's data sets            ``streams``        shards read in order only
"""

from .find import Splits, absolute, open_splits
from .image_set import ImageSet, LabelledImage, UnreadableImage
from .streams import ShardStream

__all__ = [
    "ImageSet",
    "LabelledImage",
    "ShardStream",
    "Splits",
    "UnreadableImage",
    "absolute",
    "open_splits",
]
