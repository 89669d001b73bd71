"""The published detectors and segmentors, and two small ones of this project, as plain data.

Source: Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024, arXiv
2311.17132, section 4 and its released configurations and checkpoints.

As those of classifiers, names are ``architecture`` or ``architecture.tag``:
``maskrcnn_transnext_tiny`` is ``maskrcnn_transnext_tiny.in1k_coco``, trained on COCO from a
backbone pre-trained on ImageNet-1K.

The two of `DEMONSTRATORS` have the published structure with narrow heads, and weights that travel
inside the package.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field

from ..variants import VARIANTS, Variant

__all__ = [
    "DEMONSTRATORS",
    "DENSE_MODELS",
    "KNOWN_DENSE_MODELS",
    "METHODS",
    "DenseModel",
    "Method",
    "find_dense_model",
    "is_dense",
]

COCO_CLASSES = 80
ADE20K_CLASSES = 150
DIGITS = 10


@dataclass(frozen=True)
class Method:
    """A way of detecting or segmenting on a backbone.

    Attributes
    ----------
    name : str
        Of the method, as models' names begin.
    task : {"detect", "segment"}
        What it is for.
    img_size : int
        Side of the training grid of the backbone's position bias.
    drop_path_rates : (float, float, float)
        Of Tiny, Small and Base.
    stages : tuple of int
        The backbone's maps that the neck or head takes, from 0.
    class_parameters : tuple of str
        What the names of parameters begin with that depend on the number of classes.
    logits : str
        The parameter that has a row for each class.
    background : int
        How many rows more it has.
    """

    name: str
    task: str
    img_size: int
    drop_path_rates: tuple[float, float, float]
    class_parameters: tuple[str, ...]
    logits: str
    background: int = 0
    stages: tuple[int, ...] = (0, 1, 2, 3)

    @property
    def scale(self) -> tuple[int, int]:
        """The (long, short) sides that images are resized to fit into, as published."""
        return (1333, 800) if self.task == "detect" else (2048, 512)


_LIGHT, _STRONG = (0.3, 0.5, 0.6), (0.4, 0.6, 0.7)
_DINO_CLASSES = (
    ("bbox_head.cls_branches.", "dn_query_generator.label_embedding."),
    "bbox_head.cls_branches.0.weight",
)
METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method(
            name="maskrcnn",
            task="detect",
            img_size=800,
            drop_path_rates=_STRONG,
            class_parameters=(
                "roi_head.bbox_head.fc_cls.",
                "roi_head.bbox_head.fc_reg.",
                "roi_head.mask_head.conv_logits.",
            ),
            logits="roi_head.bbox_head.fc_cls.weight",
            background=1,
        ),
        Method("dino_4scale", "detect", 800, _LIGHT, *_DINO_CLASSES, stages=(1, 2, 3)),
        Method("dino_5scale", "detect", 800, _LIGHT, *_DINO_CLASSES),
        Method(
            name="upernet",
            task="segment",
            img_size=512,
            drop_path_rates=_STRONG,
            class_parameters=("decode_head.conv_seg.", "auxiliary_head.conv_seg."),
            logits="decode_head.conv_seg.weight",
        ),
        Method(
            name="mask2former",
            task="segment",
            img_size=512,
            drop_path_rates=_LIGHT,
            class_parameters=("decode_head.cls_embed.",),
            logits="decode_head.cls_embed.weight",
            background=1,
        ),
    )
}


@dataclass(frozen=True)
class DenseModel:
    """One model with weights.

    Attributes
    ----------
    method : Method
        What it does with the maps.
    size : {"pico", "tiny", "small", "base"}
        Of the backbone.
    tag : str
        Of its weights: what the backbone, then the model was trained on.
    num_classes : int
        That it knows.
    repo, file : str | None, str
        Hugging Face Hub repository, and the file in it. ``repo is None`` marks a file that travels
        with this package, in ``transnext_models/assets``.
    img_size : int
        Side of the training grid of the backbone's position bias.
    scale : (int, int)
        Images are resized to fit into (long side, short side), their proportions kept.
    drop_path_rate : float
        Stochastic depth of the backbone's last block in training.
    heads : mapping
        Parameters of the model's class that are not the published ones.
    """

    method: Method
    size: str
    tag: str
    num_classes: int
    repo: str | None
    file: str
    img_size: int
    scale: tuple[int, int]
    drop_path_rate: float
    heads: Mapping[str, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The architecture."""
        return f"{self.method.name}_transnext_{self.size}"

    @property
    def full_name(self) -> str:
        """The architecture and the tag."""
        return f"{self.name}.{self.tag}"

    @property
    def backbone(self) -> Variant:
        """The architecture of the backbone."""
        return VARIANTS[f"transnext_{self.size}"]


_SIZES = ("tiny", "small", "base")


def _published(method: str, size: str) -> DenseModel:
    how = METHODS[method]
    detects = how.task == "detect"
    stem = f"{method}_transnext_{size}".replace("maskrcnn", "mask_rcnn")
    ending = {"maskrcnn": "fpn_1x_coco", "dino_4scale": "12e", "dino_5scale": "12e"}.get(
        method, "512x512_160k_ade20k"
    )
    folder = f"{method.replace('_', '-')}-transnext-{size}-{'coco' if detects else 'ade'}"
    return DenseModel(
        how,
        size,
        "in1k_coco" if detects else "in1k_ade20k",
        COCO_CLASSES if detects else ADE20K_CLASSES,
        f"DaiShiResearch/{folder}",
        f"{stem}_{ending}_in1k.pth",
        how.img_size,
        how.scale,
        how.drop_path_rates[_SIZES.index(size)],
    )


DENSE_MODELS: dict[str, DenseModel] = {
    model.name: model
    for model in (
        _published(method, size)
        for method in METHODS
        for size in (("tiny",) if method == "dino_4scale" else _SIZES)
    )
}


def _demonstrator(method: str, num_classes: int, **heads: int) -> DenseModel:
    return DenseModel(
        METHODS[method],
        "pico",
        "digit_scenes",
        num_classes,
        repo=None,
        file=f"{method}_transnext_pico.safetensors",
        img_size=192,
        scale=(192, 144),
        drop_path_rate=0.05,
        heads=heads,
    )


DEMONSTRATORS: dict[str, DenseModel] = {
    model.name: model
    for model in (
        _demonstrator(
            "maskrcnn",
            DIGITS,
            channels=48,
            hidden=128,
            anchor_scale=4,
            proposals=200,
            anchor_samples=128,
            samples=32,
        ),
        _demonstrator("upernet", 1 + DIGITS, channels=48, auxiliary_channels=32),
    )
}
"""Trained here on handwritten digits on photographs."""

KNOWN_DENSE_MODELS = DENSE_MODELS | DEMONSTRATORS


def is_dense(name: object) -> bool:
    """Whether a name says a method, known or misspelt in the rest, that is no classifier."""
    return isinstance(name, str) and name.startswith((*METHODS, "dino", "mask_rcnn"))


def find_dense_model(name: str) -> DenseModel:
    """Return the model that ``architecture`` or ``architecture.tag`` names.

    The middle of the name may be left out: ``dino_5scale_base``.

    Raises
    ------
    ValueError
        If there is none; the message lists the closest names.
    """
    architecture, _, tag = name.partition(".")
    short = {model.replace("_transnext", ""): model for model in KNOWN_DENSE_MODELS}
    model = KNOWN_DENSE_MODELS.get(short.get(architecture, architecture))
    if model is None:
        close = difflib.get_close_matches(architecture.lower(), KNOWN_DENSE_MODELS, n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(close)}?" if close else ""
        raise ValueError(
            f"unknown model {name!r}; {hint or 'known models: ' + ', '.join(KNOWN_DENSE_MODELS)}"
        )
    if tag and tag != model.tag:
        raise ValueError(f"{model.name} has no checkpoint {tag!r}; it has: {model.tag}")
    return model
