"""Published results, to stand beside measured ones.

Sources: Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024, arXiv
2311.17132, and the tables of its repository (accuracies, mean corruption error: `variants.py`); the
paper's figure of accuracy over image sizes, read off its curves (TransNeXt-Tiny's to ±0.05, those
of the convolutional models to ±0.15; at 224, which the figure's legend hides, the models' papers:
ConvNeXt, arXiv 2201.03545; SLaK, arXiv 2207.03620; RepLKNet, arXiv 2203.06717).
"""

from __future__ import annotations

from collections.abc import Mapping

from ..variants import VARIANTS

__all__ = ["FIGURE_SIZES", "PEER_CURVES", "TINY_CURVES", "published_result"]

FIGURE_SIZES = (224, 256, 320, 384, 480, 512, 640)

TINY_CURVES: Mapping[str, tuple[float, ...]] = {
    "normal": (84.0, 84.3, 84.3, 84.6, 83.8, 83.2, 81.6),
    "linear": (84.0, 84.0, 83.9, 84.1, 83.0, 82.6, 80.7),
    "interpolate": (84.0, 84.1, 84.2, 84.3, 83.1, 82.4, 79.5),
    "no-length-scaling": (84.0, 84.3, 84.4, 84.7, 83.7, 83.2, 80.9),
}
"""Top-1 of TransNeXt-Tiny, trained at 224, at `FIGURE_SIZES`, by mode."""

PEER_CURVES: Mapping[str, tuple[float, ...]] = {
    "ConvNeXt-B": (83.8, 84.2, 84.0, 83.5, 81.5, 80.7, 77.3),
    "SLaK-S": (83.8, 83.8, 83.2, 79.5, 65.7, 63.6, 61.4),
    "RepLKNet-31B": (83.5, 83.5, 80.9, 70.0),  # then below 50; 0.9 beyond 640, by its author
}
"""Top-1 of other models, trained at 224, at the first of `FIGURE_SIZES`."""

_TINY = "transnext_tiny.in1k"
_IN_TIMM = {"timm/convnext_base.fb_in1k": "ConvNeXt-B"}
_METRICS = {
    "imagenet": "imagenet_1k",
    "imagenet-a": "imagenet_a",
    "imagenet-c": "imagenet_c_mce",
    "imagenet-r": "imagenet_r",
    "sketch": "imagenet_sketch",
    "imagenetv2-matched-frequency": "imagenet_v2",
}


def published_result(model: str, image_set: str, size: int, mode: str) -> float | None:
    """Return a published number in percent: top-1, for ImageNet-C mCE; None where there is none.

    Parameters
    ----------
    model : str
        ``architecture.tag``, or timm's name after ``timm/``.
    image_set : str
        As rows call it.
    size : int
        Side of the images.
    mode : str
        One of `models.MODES`.
    """
    if model in _IN_TIMM and image_set == "imagenet":
        return _on(PEER_CURVES[_IN_TIMM[model]], size)
    architecture, _, tag = model.partition(".")
    variant = VARIANTS.get(architecture)
    if variant is None:
        return None
    checkpoint = variant.checkpoint(tag)
    if mode == "normal" and size == checkpoint.img_size and image_set in _METRICS:
        number: float | None = getattr(checkpoint.metrics, _METRICS[image_set])
        return number
    if model == _TINY and image_set == "imagenet":
        return _on(TINY_CURVES[mode], size)
    return None


def _on(curve: tuple[float, ...], size: int) -> float | None:
    at = dict(zip(FIGURE_SIZES, curve, strict=False))
    return at.get(size)
