"""``config.json``: how timm, transformers and this package build a model again, and feed it.

timm's format: ``architecture`` is a name in its registry, ``model_args`` what is built otherwise
than that name says, ``pretrained_cfg`` the preprocessing. A file from elsewhere is text that anyone
may have written: names and kinds are checked here, values by whoever takes them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..checkpoints.errors import about, escaped, quoted
from ..checkpoints.limits import LONGEST_CLASS_NAME, MOST_BLOCKS
from ..variants import VARIANTS, Checkpoint, Variant, architecture_arguments

__all__ = [
    "CONFIG_FILE",
    "SharedConfig",
    "model_config",
    "nearest_variant",
    "pretrained_config",
    "read_config",
]

CONFIG_FILE = "config.json"
_MOST_BYTES = 4 << 20  # names of a thousand classes are 30 KB
# Of a run or a process, not of the model that is shared.
_NOT_SHARED = {"backend", "drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate"}
# Where weights came from; says nothing of these.
_SOURCES = {"hf_hub_id", "hf_hub_filename", "url", "file", "source", "state_dict"}
_PREPROCESSING = ("mean", "std", "interpolation", "crop_pct", "crop_mode")
_DEFAULTS = {
    "in_chans": 3,
    "global_pool": "avg",
    "fixed_pool_size": None,
    "length_scaling": "image",
    "attention": "aggregated",
    "features_only": False,
    "out_indices": None,
}


@dataclass(frozen=True)
class SharedConfig:
    """What a ``config.json`` says.

    Attributes
    ----------
    variant : Variant
        The architecture that it names.
    arguments : dict
        All that builds the model, for `TransNeXt`.
    pretrained : dict
        timm's ``pretrained_cfg``: preprocessing and names of classes (``label_names``).
    """

    variant: Variant
    arguments: dict[str, Any]
    pretrained: dict[str, Any]

    @property
    def checkpoint(self) -> Checkpoint:
        """Return the preprocessing as that of a checkpoint; what is not said is the preset's."""
        preset = self.variant.default
        said = {name: self.pretrained[name] for name in _PREPROCESSING if name in self.pretrained}
        labels = preset.labels if self.pretrained.get("tag") == preset.tag else ""
        side = self.pretrained["input_size"][-1]
        return replace(preset, repo=None, sha256=None, labels=labels, img_size=side, **said)


def pretrained_config(variant: Variant, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the checkpoint in the terms of timm's ``pretrained_cfg``."""
    side = checkpoint.img_size
    return {
        "architecture": variant.name,
        "tag": checkpoint.tag,
        "hf_hub_id": checkpoint.repo,
        "hf_hub_filename": checkpoint.file if checkpoint.repo else None,
        "input_size": (variant.in_chans, side, side),
        "min_input_size": (variant.in_chans, 32, 32),
        "fixed_input_size": False,
        "pool_size": (-(-side // 32), -(-side // 32)),  # of the map that is pooled
        "interpolation": checkpoint.interpolation,
        "crop_pct": checkpoint.crop_pct,
        "crop_mode": checkpoint.crop_mode,
        "mean": checkpoint.mean,
        "std": checkpoint.std,
        "num_classes": checkpoint.num_classes,
        "first_conv": "patch_embed1.proj",
        "classifier": "head",
        "license": "apache-2.0",
        "paper_name": "TransNeXt: Robust Foveal Visual Perception for Vision Transformers",
        "paper_ids": "arXiv:2311.17132",
    }


# -- writing --------------------------------------------------------------------------------------


def nearest_variant(arguments: Mapping[str, Any], pretrained: Mapping[str, Any]) -> Variant:
    """Return the variant that a model is saved as: the one that it names, or else the most alike.

    Parameters
    ----------
    arguments : Mapping
        What builds the model.
    pretrained : Mapping
        Its ``pretrained_cfg``.
    """
    named = VARIANTS.get(str(pretrained.get("architecture")))
    if named is not None:
        return named
    return min(VARIANTS.values(), key=lambda variant: len(_differing(arguments, variant)))


def model_config(
    variant: Variant,
    arguments: Mapping[str, Any],
    pretrained: Mapping[str, Any],
    class_names: Sequence[str] | None,
) -> dict[str, Any]:
    """Return what ``config.json`` holds of a model.

    Parameters
    ----------
    variant, arguments, pretrained
        See `nearest_variant`.
    class_names : Sequence[str] | None
        One for each class; None are those in `pretrained`, if they are as many.
    """
    side, channels = arguments["img_size"], arguments["in_chans"]
    names = class_names or _class_names(pretrained, arguments["num_classes"])
    told = {**pretrained_config(variant, variant.default), **pretrained}
    told |= {
        "input_size": (channels, side, side),
        "min_input_size": (channels, 32, 32),
        "pool_size": (-(-side // 32), -(-side // 32)),
        "num_classes": arguments["num_classes"],
        "custom_load": False,
    }
    left_out = _SOURCES | {"architecture", "label_names"}
    config = {
        "architecture": variant.name,
        "num_classes": arguments["num_classes"],
        "num_features": arguments["embed_dims"][-1],
        "model_args": _differing(arguments, variant),
        "pretrained_cfg": {k: v for k, v in told.items() if k not in left_out and v is not None},
    }
    if names:
        config["label_names"] = list(names)
    return config


def _differing(arguments: Mapping[str, Any], variant: Variant) -> dict[str, Any]:
    """Return the arguments that timm's entry point of the variant would not choose by itself."""
    usual = {**_DEFAULTS, **architecture_arguments(variant), "img_size": variant.default.img_size}
    usual["position_bias"] = "interpolate" if arguments.get("features_only") else "extrapolate"
    return {
        name: list(value) if isinstance(value, tuple) else value
        for name, value in arguments.items()
        if name not in _NOT_SHARED and name != "num_classes" and not _equal(value, usual.get(name))
    }


def _equal(value: Any, other: Any) -> bool:
    if isinstance(value, (tuple, list)) and isinstance(other, (tuple, list)):
        return list(value) == list(other)
    return bool(value == other)


# -- reading --------------------------------------------------------------------------------------


def read_config(path: Path, known: Collection[str]) -> SharedConfig:
    """Return what a ``config.json`` says.

    Parameters
    ----------
    path : Path
        The file.
    known : Collection[str]
        The model's parameters.

    Raises
    ------
    ValueError
        If it is no configuration of a TransNeXt; the message names the file and the reason.
    """
    try:
        content = _content(path)
        pretrained = _pretrained(content)
        variant = _variant(content)
        arguments = {
            **architecture_arguments(variant),
            "img_size": variant.default.img_size,
            "num_classes": pretrained.get("num_classes", variant.default.num_classes),
            "in_chans": pretrained["input_size"][0],
            **_model_arguments(content, known),
        }
    except ValueError as error:
        raise ValueError(about(path, str(error))) from None
    return SharedConfig(variant, arguments, pretrained)


def _content(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise ValueError(f"it has more than {_MOST_BYTES >> 20} MiB")
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise ValueError(f"it cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        if "MiB" in str(error):
            raise
        raise ValueError("it is no JSON") from None
    if not isinstance(content, dict):
        raise ValueError("needs an object with 'architecture' and 'pretrained_cfg'")
    return content


def _variant(content: Mapping[str, Any]) -> Variant:
    name = content.get("architecture")
    if not isinstance(name, str) or name not in VARIANTS:
        shown = "none" if name is None else quoted(str(name))
        raise ValueError(f"architecture: got {shown}, needs one of {', '.join(VARIANTS)}")
    return VARIANTS[name]


def _pretrained(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the ``pretrained_cfg``; older files of timm are one, with the architecture in it."""
    found = content.get("pretrained_cfg", content)
    if not isinstance(found, dict):
        raise ValueError("pretrained_cfg: needs an object")
    left_out = _SOURCES | {"model_args", "num_features", "global_pool", "pretrained_cfg"}
    pretrained = {name: value for name, value in found.items() if name not in left_out}
    pretrained["architecture"] = content.get("architecture")
    for name in ("num_classes", "label_names"):
        if content.get(name) is not None:
            pretrained[name] = content[name]
    classes = pretrained.get("num_classes", 0)
    if isinstance(classes, bool) or not isinstance(classes, int):
        raise ValueError(f"num_classes: got {_shown(classes)}, needs an int")
    size = pretrained.setdefault("input_size", [3, 224, 224])
    if not (isinstance(size, list) and len(size) == 3 and all(type(n) is int for n in size)):
        raise ValueError(f"input_size: got {_shown(size)}, needs three ints")
    for name in ("mean", "std"):
        values = pretrained.get(name, [0.5] * 3)
        if not (isinstance(values, list) and all(type(x) in (int, float) for x in values)):
            raise ValueError(f"{name}: got {_shown(values)}, needs numbers")
        # Of a model with other channels timm leaves those of colour images.
        if len(values) not in (3, size[0]) or (name == "std" and 0 in values):
            raise ValueError(f"{name}: got {_shown(values)}, needs one for each channel")
    for name in ("interpolation", "crop_mode"):
        if not isinstance(pretrained.get(name, ""), str):
            raise ValueError(f"{name}: got {_shown(pretrained[name])}, needs a text")
    if type(pretrained.get("crop_pct", 1)) not in (int, float):
        raise ValueError(f"crop_pct: got {_shown(pretrained['crop_pct'])}, needs a number")
    names = _class_names(pretrained, classes)
    pretrained.pop("label_names", None)
    if names:
        pretrained["label_names"] = names
    return {name: tuple(x) if isinstance(x, list) else x for name, x in pretrained.items()}


def _model_arguments(content: Mapping[str, Any], known: Collection[str]) -> dict[str, Any]:
    arguments = content.get("model_args") or {}
    if not isinstance(arguments, dict):
        raise ValueError("model_args: needs an object")
    for name in arguments:
        if name not in known:
            raise ValueError(
                f"model_args: got unknown {quoted(name)}, needs parameters of TransNeXt"
            )
    depths = arguments.get("depths", ())
    if isinstance(depths, list) and sum(n for n in depths if type(n) is int) > MOST_BLOCKS:
        raise ValueError(f"model_args: depths: got {_shown(depths)}, more than {MOST_BLOCKS}")
    return {name: value for name, value in arguments.items() if name not in _NOT_SHARED}


def _class_names(pretrained: Mapping[str, Any], num_classes: int) -> list[str] | None:
    names = pretrained.get("label_names")
    if not isinstance(names, (list, tuple)) or len(names) != num_classes:
        return None
    believed = all(isinstance(name, str) and len(name) <= LONGEST_CLASS_NAME for name in names)
    return list(names) if believed else None


def _shown(value: object) -> str:
    return escaped(repr(value), 80)
