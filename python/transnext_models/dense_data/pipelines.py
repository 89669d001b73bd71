"""The data of the four published methods, as steps for training and for tests.

Sources: the published configurations. Sides are of pixels, long before short.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from .cropping import BalancedCrop, BoxCrop
from .draws import Draws
from .geometry import ChosenResize, Flip, Resize, ScaledResize
from .photometric import PhotometricDistortion
from .sample import DenseSample, Pipeline, Step

__all__ = ["METHODS", "EvenOdds", "Method", "mask2former_sides"]

DETECTION_SCALE = (1333, 800)
SEGMENTATION_SCALE = (2048, 512)
CROP = 512
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


def _segmentation(resize: Step) -> Pipeline:
    return Pipeline((resize, BalancedCrop(CROP), Flip(), PhotometricDistortion()))


_DINO_RESIZE = ChosenResize(_DINO_SIDES, 1333)
_DINO_CROP = Pipeline((ChosenResize((400, 500, 600), 4200), BoxCrop((384, 600)), _DINO_RESIZE))

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
            training=Pipeline((Flip(), EvenOdds((_DINO_RESIZE, _DINO_CROP)))),
            test=Pipeline((Resize(DETECTION_SCALE),)),
        ),
        "upernet": Method(
            training=_segmentation(ScaledResize(SEGMENTATION_SCALE, (0.5, 2.0))),
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
