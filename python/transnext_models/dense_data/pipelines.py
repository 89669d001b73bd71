"""The data of the four published methods, as steps for training and for tests.

Sources: the published configurations. Sides are of pixels, long before short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from .cropping import BalancedCrop, BoxCrop
from .draws import Draws
from .geometry import ChosenResize, Flip, Resize, ScaledResize
from .photometric import PhotometricDistortion
from .sample import DenseSample, Pipeline, Step

__all__ = ["METHODS", "EvenOdds", "Method", "mask2former_sides", "method_at"]

DETECTION_SCALE = (1333, 800)
SEGMENTATION_SCALE = (2048, 512)
CROP = 512
_FACTORS = (0.5, 2.0)  # on the sides of UPerNet's images
_DINO_SIDES = tuple(range(480, 801, 32))


@dataclass(frozen=True)
class EvenOdds:
    """One step of several, each as likely.

    Attributes
    ----------
    steps : tuple[Step, ...]
        To choose from.
    """

    steps: tuple[Step, ...]

    def __call__(self, sample: DenseSample, draws: Draws) -> DenseSample:
        """Take one of them."""
        return self.steps[draws.integer(0, len(self.steps))](sample, draws)


@dataclass(frozen=True)
class Method:
    """What a method does to its data.

    Attributes
    ----------
    training, test : Pipeline
        From a sample to one that is only to be normalised and padded.
    training_divisor, test_divisor : int
        Batches are padded at right and bottom to multiples of it.
    least_side : int
        Batches of training are padded to this height and width at least.
    needs_masks : bool
        Whether objects are trained with their masks.
    keeps_empty : bool
        Whether images without any object are trained on.
    smallest_side : int
        Images with a shorter side are not trained on, unless empty ones are kept.
    one_orientation : bool
        Whether a batch has images of one orientation.
    """

    training: Pipeline
    test: Pipeline
    training_divisor: int = 1
    test_divisor: int = 1
    least_side: int = 0
    needs_masks: bool = False
    keeps_empty: bool = True
    smallest_side: int = 0
    one_orientation: bool = False


def mask2former_sides(crop: int = CROP) -> tuple[int, ...]:
    """Return the sixteen short sides: half the crop to twice of it, in tenths."""
    return tuple(int(crop * tenths * 0.1) for tenths in range(5, 21))


def _segmentation(resize: Step, crop: int = CROP) -> Pipeline:
    return Pipeline((resize, BalancedCrop(crop), Flip(), PhotometricDistortion()))


def _dino(scale: tuple[int, int] = DETECTION_SCALE) -> Pipeline:
    """Return its steps; sides other than the published ones are in proportion."""
    long, short = scale

    def sides(*published: int) -> tuple[int, ...]:
        return tuple(side * short // DETECTION_SCALE[1] for side in published)

    resize = ChosenResize(sides(*_DINO_SIDES), long)
    crop = BoxCrop((sides(384)[0], sides(600)[0]))
    cropped = Pipeline((ChosenResize(sides(400, 500, 600), *sides(4200)), crop, resize))
    return Pipeline((Flip(), EvenOdds((resize, cropped))))


METHODS: Mapping[str, Method] = MappingProxyType(
    {
        "maskrcnn": Method(
            training=Pipeline((Resize(DETECTION_SCALE), Flip())),
            test=Pipeline((Resize(DETECTION_SCALE),)),
            training_divisor=32,
            test_divisor=32,
            needs_masks=True,
            keeps_empty=False,
            smallest_side=32,
            one_orientation=True,
        ),
        "dino": Method(
            training=_dino(),
            test=Pipeline((Resize(DETECTION_SCALE),)),
        ),
        "upernet": Method(
            training=_segmentation(ScaledResize(SEGMENTATION_SCALE, _FACTORS)),
            test=Pipeline((Resize(SEGMENTATION_SCALE),)),
            least_side=CROP,
        ),
        "mask2former": Method(
            training=_segmentation(ChosenResize(mask2former_sides(), 2048)),
            test=Pipeline((Resize(SEGMENTATION_SCALE),)),
            test_divisor=32,
            least_side=CROP,
        ),
    }
)
"""By the first part of a model's name, ``maskrcnn_transnext_tiny``."""


def method_at(
    name: str,
    scale: tuple[int, int],
    jitter: tuple[float, float] | None = None,
    *,
    flips: bool = True,
) -> Method:
    """Return a method whose images fit into other sides than the published ones.

    Parameters
    ----------
    name : str
        Of `METHODS`.
    scale : tuple[int, int]
        Long and short side of tests. Those of training are in proportion, and the squares that
        segmentation cuts out have the short side.
    jitter : tuple[float, float] | None
        Factors, drawn evenly, on the sides of Mask R-CNN's and UPerNet's training; None is as
        published: Mask R-CNN has one size, UPerNet 0.5 to 2.
    flips : bool
        Whether half of the images of training are mirrored.
    """
    method = _at(name, scale, jitter)
    if flips:
        return method
    steps = tuple(step for step in method.training.steps if not isinstance(step, Flip))
    return replace(method, training=Pipeline(steps))


def _at(name: str, scale: tuple[int, int], jitter: tuple[float, float] | None) -> Method:
    method = METHODS[name]
    test = Pipeline((Resize(scale),))
    short = scale[1]
    if name == "maskrcnn":
        resize = ScaledResize(scale, jitter) if jitter else Resize(scale)
        return replace(method, training=Pipeline((resize, Flip())), test=test)
    if name == "dino":
        return replace(method, training=_dino(scale), test=test)
    if name == "upernet":
        steps = _segmentation(ScaledResize(scale, jitter or _FACTORS), short)
    else:
        steps = _segmentation(ChosenResize(mask2former_sides(short), scale[0]), short)
    return replace(method, training=steps, test=test, least_side=short)
