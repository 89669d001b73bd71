"""What a checkpoint of a training program says about its weights, as a weights file's metadata.

`transnext train` writes a ``configuration``; OpenMMLab's runners write a ``meta`` with the names
and colours of the data set's classes: ``CLASSES`` and ``PALETTE`` (MMCV 1.x), or these, in small
letters too, under ``dataset_meta`` (MMEngine).
"""

from __future__ import annotations

import json
from collections.abc import Mapping

_SIDES = ("img_size", "pretrain_size")


def run_metadata(root: object) -> dict[str, str]:
    """Return sizes, crop, names and colours of classes that a checkpoint states; empty for others.

    They are text that anyone may have written: `metadata` decides what of it is believed.

    Parameters
    ----------
    root : object
        The pickled object, as data.
    """
    if not isinstance(root, Mapping):
        return {}
    return _of_openmmlab(root.get("meta")) | _of_run(root.get("configuration"))


def _of_run(configuration: object) -> dict[str, str]:
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
    return metadata | _names(configuration.get("class_names"))


def _of_openmmlab(meta: object) -> dict[str, str]:
    if not isinstance(meta, Mapping):
        return {}
    metadata: dict[str, str] = {}
    data_set = meta.get("dataset_meta")
    for place in (data_set, meta) if isinstance(data_set, Mapping) else (meta,):
        for case in (str.lower, str.upper):
            metadata |= _names(place.get(case("classes"))) | _colours(place.get(case("palette")))
    return metadata


def _names(names: object) -> dict[str, str]:
    if isinstance(names, (list, tuple)) and all(type(name) is str for name in names):
        return {"class_names": json.dumps(list(names))}
    return {}


def _colours(palette: object) -> dict[str, str]:
    if isinstance(palette, (list, tuple)) and all(
        isinstance(row, (list, tuple))
        and all(type(part) is int and 0 <= part < 256 for part in row)
        for row in palette
    ):
        return {"class_colours": json.dumps([list(row) for row in palette])}
    return {}
