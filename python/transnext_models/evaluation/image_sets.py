"""The sets of images as plain data: their names, how many images, which classes, which folders.

Sources: the sets' authors; hendrycks/natural-adv-examples, hendrycks/imagenet-r,
HaohanWang/ImageNet-Sketch, modestyachts/ImageNetV2, hendrycks/robustness. The names are those of
timm's result files.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from .class_lists import indices_of_a, indices_of_r, wnids

__all__ = [
    "CORRUPTIONS",
    "CORRUPTION_GROUPS",
    "EXTRA_CORRUPTIONS",
    "IMAGENET",
    "IMAGENET_A",
    "IMAGENET_C",
    "IMAGENET_R",
    "KNOWN_SETS",
    "SEVERITIES",
    "SKETCH",
    "V2",
    "ImageSet",
    "labelled_folder",
]


def _all_classes() -> Sequence[int]:
    return range(len(wnids()))


def _by_wnid(labels: Callable[[], Sequence[int]]) -> Callable[[], Mapping[str, int]]:
    def names() -> Mapping[str, int]:
        known = wnids()
        return {known[label]: label for label in labels()}

    return names


def _by_number() -> Mapping[str, int]:
    """Folders 0 to 999: the number is the label, and no order of names matters."""
    return {str(label): label for label in _all_classes()}


@dataclass(frozen=True)
class ImageSet:
    """One set of labelled images, a folder for each class.

    Attributes
    ----------
    name : str
        What rows call it.
    option : str
        The argument that says where it is.
    images : int | None
        How many it has; None if that is not known.
    folders : callable
        Returns the name of each class's folder and its label.
    labels : callable | None
        Returns the labels, ascending, to which the logits are restricted before the arg-max; None
        for all logits.
    """

    name: str
    option: str
    images: int | None
    folders: Callable[[], Mapping[str, int]]
    labels: Callable[[], Sequence[int]] | None = None


IMAGENET = ImageSet("imagenet", "imagenet", 50_000, _by_wnid(_all_classes))
IMAGENET_A = ImageSet("imagenet-a", "a", 7_500, _by_wnid(indices_of_a), indices_of_a)
IMAGENET_R = ImageSet("imagenet-r", "r", 30_000, _by_wnid(indices_of_r), indices_of_r)
SKETCH = ImageSet("sketch", "sketch", 50_889, _by_wnid(_all_classes))
IMAGENET_C = ImageSet("imagenet-c", "c", 50_000, _by_wnid(_all_classes))
V2 = {
    variant: ImageSet(f"imagenetv2-{variant}", "v2", 10_000, _by_number)
    for variant in ("matched-frequency", "threshold-0.7", "top-images")
}
KNOWN_SETS = (
    IMAGENET,
    IMAGENET_A,
    IMAGENET_R,
    SKETCH,
    ImageSet("imagenetv2", "v2", 10_000, _by_number),
)
"""Those among which it is looked for what a wrong folder is."""

CORRUPTION_GROUPS: Mapping[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
}
CORRUPTIONS = tuple(name for names in CORRUPTION_GROUPS.values() for name in names)
EXTRA_CORRUPTIONS = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
"""Published beside the fifteen; not in the mean corruption error."""
SEVERITIES = (1, 2, 3, 4, 5)


def labelled_folder(class_names: Sequence[str]) -> ImageSet:
    """Return the set of a user's own images: folders named as the model's classes."""
    folders = {name: label for label, name in enumerate(class_names)}
    return ImageSet("folder", "folder", None, lambda: folders)
