"""Weights files: read them without running them, load them whole or not at all, convert them."""

from __future__ import annotations

from .architecture import Architecture, infer_architecture
from .convert import Conversion, convert, written_atomically
from .errors import CheckpointError, WeightsWarning
from .load import LoadReport, check_fit, load_checkpoint
from .metadata import class_colours, class_names, image_crop, image_side
from .read import WeightsFile, read_state_dict, read_weights

__all__ = [
    "Architecture",
    "CheckpointError",
    "Conversion",
    "LoadReport",
    "WeightsFile",
    "WeightsWarning",
    "check_fit",
    "class_colours",
    "class_names",
    "convert",
    "image_crop",
    "image_side",
    "infer_architecture",
    "load_checkpoint",
    "read_state_dict",
    "read_weights",
    "written_atomically",
]
