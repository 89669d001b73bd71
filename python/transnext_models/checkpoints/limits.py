"""Limits on what a weights file may ask for, and why they are enough.

Reading a file takes at most 1 s + 1 s per MB of it, and 64 MB + 4 times its size of memory. So
nothing in a file is believed until it has been compared with the bytes that are there, and what
costs more than its bytes (small objects, mostly) is counted. The largest published model has 1,304
entries and 359 MB; a detector's training checkpoint has a few thousand entries and less than 2 GB.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

MEGABYTE = 1_000_000

# Of one file.
MOST_ENTRIES = 20_000
LONGEST_NAME = 500  # of an entry, in characters
MOST_WEIGHT_BYTES = 4 << 30  # of the entries that are read, together
# Entries may share bytes (tied weights), so all together may be larger than the file: so much.
MOST_SHARING = 1.5
MOST_DIMENSIONS = 16
MOST_ELEMENTS = 1 << 48

# Of what its weights say about the network, and its metadata about the images.
MOST_BLOCKS = 1000
MOST_CLASSES = 1_000_000
MOST_IMAGE_SIDE = 1024  # larger ones can be asked for, not claimed
LONGEST_CLASS_NAME = 1000

# A safetensors header: 100 bytes are usual for an entry. Its brackets bound the objects it makes.
MOST_HEADER_BYTES = 2 << 20
MOST_HEADER_BRACKETS = 3 * MOST_ENTRIES + 10_000
# A zip archive's directory: 46 bytes and a name for each record.
MOST_DIRECTORY_BYTES = 4 << 20
# Text and bytes longer than this are no part of a state dict, and not kept.
LONGEST_TEXT = 1 << 16


def pickle_allowance(file_size: int) -> int:
    """Return how many bytes of objects the pickles of a file of `file_size` bytes may make."""
    return (24 << 20) + file_size


def weight_allowance(file_size: int) -> int:
    """Return how many bytes all weights read from a file of `file_size` bytes may have."""
    return min(int(MOST_SHARING * file_size) + MEGABYTE, MOST_WEIGHT_BYTES)


def count_elements(shape: Sequence[int]) -> int | None:
    """Return the number of elements of a tensor of that shape; None if PyTorch could not have it.

    A dimension of 0 does not make the others harmless: their product is still computed.
    """
    if len(shape) > MOST_DIMENSIONS:
        return None
    if any(length > MOST_ELEMENTS for length in shape):
        return None
    if math.prod(max(length, 1) for length in shape) > MOST_ELEMENTS:
        return None
    return math.prod(shape)
