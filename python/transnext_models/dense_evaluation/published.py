"""Published results of detection and segmentation, in percent.

Source: Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024, arXiv
2311.17132, and the tables of its repository. COCO 2017 validation and ADE20K validation, backbones
pre-trained on ImageNet-1K.
"""

from __future__ import annotations

from collections.abc import Mapping

__all__ = ["MODES", "PUBLISHED", "published_score"]

MODES = ("single", "multi_scale", "multi_scale_extrapolated")
"""How an image is seen: as published for its method alone, or by twelve views, six scales each
mirrored as well, with the position bias interpolated or extrapolated."""

_SIZES = ("tiny", "small", "base")


def _of_sizes(method: str, metric: str, mode: str, scores: tuple[float, ...]) -> dict[Key, float]:
    names = (f"{method}_transnext_{size}" for size in _SIZES)
    return {(name, metric, mode): score for name, score in zip(names, scores, strict=True)}


Key = tuple[str, str, str]

PUBLISHED: Mapping[Key, float] = {
    **_of_sizes("maskrcnn", "box AP", "single", (49.9, 51.1, 51.7)),
    **_of_sizes("maskrcnn", "mask AP", "single", (44.6, 45.5, 45.9)),
    ("dino_4scale_transnext_tiny", "box AP", "single"): 55.1,
    **_of_sizes("dino_5scale", "box AP", "single", (55.7, 56.6, 57.1)),
    **_of_sizes("upernet", "mIoU", "single", (51.1, 52.2, 53.0)),
    **_of_sizes("upernet", "mIoU", "multi_scale", (51.5, 52.5, 53.5)),
    **_of_sizes("upernet", "mIoU", "multi_scale_extrapolated", (51.7, 52.8, 53.7)),
    **_of_sizes("mask2former", "mIoU", "single", (53.4, 54.1, 54.7)),
}
"""By model, metric and mode."""

_SETS = {"box AP": "coco", "mask AP": "coco", "mIoU": "ade20k"}


def published_score(model: str, metric: str, image_set: str, mode: str = "single") -> float | None:
    """Return a published number in percent, None where there is none.

    Parameters
    ----------
    model : str
        A model's name, with or without a tag after a point.
    metric : str
        ``box AP``, ``mask AP`` or ``mIoU``.
    image_set : str
        ``coco`` or ``ade20k`` for the published sets.
    mode : str
        One of `MODES`.
    """
    if _SETS.get(metric) != image_set:
        return None
    return PUBLISHED.get((model.partition(".")[0], metric, mode))
