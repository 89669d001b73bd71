"""Images: finding them, decoding them to RGB within bounds of memory, from wherever they come.

``find_images``  names of files, folders and patterns become files      find.py, search.py, …
``open_picture`` a file, stream, array … is decoded under a budget      read.py, memory.py, claims/
``DecodedBatches`` many are decoded in threads, ahead of who takes them  batches.py
``Picture``      what was decoded, upright and RGB, strip by strip      picture.py
"""

from .batches import Batch, DecodedBatches, decoded_batches, images_of
from .errors import ImageError
from .find import find_images
from .formats import FORMATS, SUFFIXES
from .found import FoundImages, LeftOut
from .hidden import is_hidden
from .memory import DECODING, DECODING_BYTES, MAX_PIXELS, MAX_SIDE, MemoryBudget
from .picture import Picture
from .read import open_picture, read_image

__all__ = [
    "DECODING",
    "DECODING_BYTES",
    "FORMATS",
    "MAX_PIXELS",
    "MAX_SIDE",
    "SUFFIXES",
    "Batch",
    "DecodedBatches",
    "FoundImages",
    "ImageError",
    "LeftOut",
    "MemoryBudget",
    "Picture",
    "decoded_batches",
    "find_images",
    "images_of",
    "is_hidden",
    "open_picture",
    "read_image",
]
