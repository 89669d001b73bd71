"""What a checkpoint of `transnext train` says about its weights, as a weights file's metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping

_SIDES = ("img_size", "pretrain_size")


def run_metadata(root: object) -> dict[str, str]:
    """Return sizes, crop and class names in the configuration of a run; empty for other files.

    They are text that anyone may have written: `metadata` decides what of it is believed.

    Parameters
    ----------
    root : object
        The pickled object, as data.
    """
    configuration = root.get("configuration") if isinstance(root, Mapping) else None
    if not isinstance(configuration, Mapping):
        return {}
    metadata = {}
    resolved = configuration.get("resolved")
    if isinstance(resolved, Mapping):
        for side in _SIDES:
            value = resolved.get(side)
            if type(value) is int and value.bit_length() < 64:
                metadata[side] = str(value)
        if type(resolved.get("crop_mode")) is str and type(resolved.get("crop_pct")) is float:
            metadata |= {name: str(resolved[name]) for name in ("crop_mode", "crop_pct")}
    names = configuration.get("class_names")
    if type(names) is list and all(type(name) is str for name in names):
        metadata["class_names"] = json.dumps(names)
    return metadata
