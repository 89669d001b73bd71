"""The TransNeXt family as plain data: architectures, and checkpoints with their preprocessing.

Source: Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024,
arXiv 2311.17132, tables 1, 2 and 12, and the released checkpoints. ``transnext_pico`` is this
project's own small demonstrator, whose weights travel inside the package.

A model is named ``architecture`` or ``architecture.tag``; the tag picks one of the checkpoints of
the architecture, the first being the default: ``transnext_small`` is ``transnext_small.in1k``, and
``transnext_small.in1k_384`` is the one fine-tuned at 384 x 384.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "VARIANTS",
    "Checkpoint",
    "Metrics",
    "Variant",
    "architecture_arguments",
    "find_checkpoint",
]

MIN_SIZE = 32  # of an image's sides: one token in the last stage
CROP_MODES = ("center", "squash")  # see `Checkpoint`
HEAD_DIM = 24  # of every published model
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclass(frozen=True)
class Metrics:
    """Published results in percent: top-1 accuracy, and mCE (lower is better) for ImageNet-C."""

    imagenet_1k: float | None = None
    imagenet_a: float | None = None
    imagenet_c_mce: float | None = None
    imagenet_r: float | None = None
    imagenet_sketch: float | None = None
    imagenet_v2: float | None = None


@dataclass(frozen=True)
class Checkpoint:
    """One set of trained weights: where it is, what it answers and how its images are prepared.

    Attributes
    ----------
    tag : str
        Name of the weights within the architecture.
    repo, file : str | None, str
        Hugging Face Hub repository and the file in it. ``repo is None`` marks a file that travels
        with this package, in ``transnext_models/assets``.
    sha256, bytes : str | None, int | None
        Of the published file, where they are known; the file is checked against them.
    img_size : int
        Side of the square image it was trained (and is evaluated) at.
    gmacs : float | None
        Published cost of one image of that size, in units of 1e9 multiply-adds.
    num_classes, labels : int, str
        Size of the classifier and the name of its list of labels.
    mean, std, interpolation, crop_pct, crop_mode
        Preprocessing in timm's terms: ``center`` resizes the short side to ``img_size / crop_pct``
        and crops the middle, ``squash`` warps the whole image to the square.
    metrics : Metrics
        Published results.
    """

    tag: str
    repo: str | None
    file: str
    sha256: str | None = None
    bytes: int | None = None
    img_size: int = 224
    gmacs: float | None = None
    num_classes: int = 1000
    labels: str = "imagenet_1k"
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_mode: str = "center"
    metrics: Metrics = field(default_factory=Metrics)


@dataclass(frozen=True)
class Variant:
    """One architecture: what :class:`~transnext_models.TransNeXt` needs to build it.

    The tuples have one entry for each of the four stages. A stage whose ``sr_ratios`` entry is 1
    uses global attention, so its window does not exist. ``pretrain_size`` is the image side that
    the position bias was trained at, which stays what it was when the image size changes.
    """

    name: str
    embed_dims: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    drop_path_rate: float
    parameters: int
    checkpoints: tuple[Checkpoint, ...]
    mlp_ratios: tuple[float, float, float, float] = (8, 8, 4, 4)
    sr_ratios: tuple[int, int, int, int] = (8, 4, 2, 1)
    window_size: int = 3
    qkv_bias: bool = True
    pretrain_size: int = 224
    in_chans: int = 3

    @property
    def head_dim(self) -> int:
        """Channels of a head, the same in every stage."""
        return self.embed_dims[0] // self.num_heads[0]

    @property
    def default(self) -> Checkpoint:
        """The checkpoint that the bare name of the architecture stands for."""
        return self.checkpoints[0]

    def checkpoint(self, tag: str | None = None) -> Checkpoint:
        """Return the checkpoint called ``tag``, the default one for None.

        Raises
        ------
        ValueError
            If the architecture has no checkpoint of that name.
        """
        for candidate in self.checkpoints:
            if tag is None or candidate.tag == tag:
                return candidate
        known = ", ".join(candidate.tag for candidate in self.checkpoints)
        raise ValueError(f"{self.name} has no checkpoint {tag!r}; it has: {known}")


# SHA-256 and bytes of the files on the Hub.
_DIGESTS = {
    "micro-224-1k": (
        "18dbc88e9c1eb3b3f7801f91f61ef25db56a276a2ee85c4ae3e940c832410d8f",
        51_425_223,
    ),
    "base-224-1k": (
        "1d3b9e5c159b61f162bfaaea5887552d04f6b92af83e0e798f682f9d35f53272",
        359_219_401,
    ),
    "micro-AAAA-256-1k": (
        "a58c674fa5f3f4ab47499a442c51156163112cd7c64bd011d511a716421fd9cd",
        52_655_448,
    ),
}


def _published(name: str, gmacs: float, metrics: Metrics, img_size: int = 224) -> Checkpoint:
    """Return a published classification checkpoint; ``name`` is e.g. ``small-384-1k-ft-1k``."""
    stem = f"transnext-{name}"
    sha256, size = _DIGESTS.get(name, (None, None))
    return Checkpoint(
        tag="in1k_384" if img_size == 384 else "in1k",
        repo=f"DaiShiResearch/{stem}",
        file=stem.replace("-", "_") + ".pth",
        sha256=sha256,
        bytes=size,
        img_size=img_size,
        gmacs=gmacs,
        crop_pct=1.0 if img_size >= 384 else 0.875,
        crop_mode="squash" if img_size >= 384 else "center",
        metrics=metrics,
    )


def _imagenet(
    name: str,
    width: int,
    depths: tuple[int, int, int, int],
    drop_path_rate: float,
    parameters: int,
    *checkpoints: Checkpoint,
    sr_ratios: tuple[int, int, int, int] = (8, 4, 2, 1),
    pretrain_size: int = 224,
) -> Variant:
    """Return a published architecture, whose width doubles from stage to stage."""
    first, second, third, fourth = (width * 2**stage for stage in range(4))
    return Variant(
        name=name,
        embed_dims=(first, second, third, fourth),
        num_heads=(first // HEAD_DIM, second // HEAD_DIM, third // HEAD_DIM, fourth // HEAD_DIM),
        depths=depths,
        drop_path_rate=drop_path_rate,
        parameters=parameters,
        checkpoints=checkpoints,
        sr_ratios=sr_ratios,
        pretrain_size=pretrain_size,
    )


_PICO = Variant(
    name="transnext_pico",
    embed_dims=(24, 48, 96, 144),
    num_heads=(1, 2, 4, 6),
    depths=(1, 1, 2, 1),
    mlp_ratios=(4, 4, 4, 4),
    drop_path_rate=0.05,
    parameters=745_602,
    pretrain_size=64,
    checkpoints=(
        Checkpoint(
            tag="mnist5k",
            repo=None,
            file="transnext_pico.safetensors",
            img_size=64,
            gmacs=0.0137,
            num_classes=10,
            labels="digits",
            crop_pct=1.0,
            crop_mode="squash",
        ),
    ),
)
_PUBLISHED = (
    _imagenet(
        "transnext_micro", 48, (2, 2, 15, 2), 0.15, 12_809_304,
        _published("micro-224-1k", 2.65, Metrics(82.5, 29.9, 50.8, 45.8, 33.0, 72.6)),
    ),
    _imagenet(
        "transnext_tiny", 72, (2, 2, 15, 2), 0.25, 28_258_960,
        _published("tiny-224-1k", 5.71, Metrics(84.0, 39.9, 46.5, 49.6, 37.6, 73.8)),
    ),
    _imagenet(
        "transnext_small", 72, (5, 5, 22, 5), 0.45, 49_741_564,
        _published("small-224-1k", 10.29, Metrics(84.7, 47.1, 43.9, 52.5, 39.7, 74.8)),
        _published("small-384-1k-ft-1k", 32.02, Metrics(86.0, 58.3, None, 56.4, 43.2, 76.8), 384),
    ),
    _imagenet(
        "transnext_base", 96, (5, 5, 23, 5), 0.6, 89_721_496,
        _published("base-224-1k", 18.30, Metrics(84.8, 50.6, 43.5, 53.9, 41.4, 75.1)),
        _published("base-384-1k-ft-1k", 56.19, Metrics(86.2, 61.6, None, 57.7, 44.7, 77.0), 384),
    ),
    _imagenet(
        "transnext_micro_AAAA", 48, (2, 2, 15, 2), 0.15, 13_114_008,
        _published("micro-AAAA-256-1k", 3.33, Metrics(82.6), 256),
        sr_ratios=(16, 8, 4, 2),
        pretrain_size=256,
    ),
)  # fmt: skip
VARIANTS: dict[str, Variant] = {variant.name: variant for variant in (_PICO, *_PUBLISHED)}


def architecture_arguments(variant: Variant) -> dict[str, Any]:
    """Return what the class needs to build ``variant``, whatever its weights."""
    return {
        "embed_dims": variant.embed_dims,
        "num_heads": variant.num_heads,
        "depths": variant.depths,
        "mlp_ratios": variant.mlp_ratios,
        "sr_ratios": variant.sr_ratios,
        "window_size": variant.window_size,
        "qkv_bias": variant.qkv_bias,
        "drop_path_rate": variant.drop_path_rate,
        "pretrain_size": variant.pretrain_size,
    }


def find_checkpoint(name: str) -> tuple[Variant, Checkpoint]:
    """Return the architecture and checkpoint that ``architecture`` or ``architecture.tag`` names.

    Raises
    ------
    ValueError
        If there is none; the message lists the closest names.
    TypeError
        If `name` is no text.
    """
    if not isinstance(name, str):
        raise TypeError(f"name: got {type(name).__name__}, needs a model's name")
    architecture, _, tag = name.partition(".")
    variant = VARIANTS.get(architecture)
    if variant is None:
        by_lower = {known.lower(): known for known in VARIANTS}
        close = difflib.get_close_matches(architecture.lower(), by_lower, n=3, cutoff=0.5)
        if close:
            hint = f"did you mean {' or '.join(by_lower[match] for match in close)}?"
        else:
            hint = f"known models: {', '.join(VARIANTS)}"
        raise ValueError(f"unknown model {name!r}; {hint}")
    return variant, variant.checkpoint(tag or None)
