"""Annotated images as data sets of torch: training samples by position, test samples by number."""

from __future__ import annotations

from torch.utils.data import Dataset

from ..training.random_numbers import sample_generator
from ..training.sampling import Sample
from .draws import Draws, GivenDraws
from .pipelines import Method
from .reading import read_sample
from .records import AnnotatedImage, AnnotatedSet
from .sample import DenseSample

__all__ = ["TestSamples", "TrainingSamples", "images_to_train_on"]


def images_to_train_on(annotated: AnnotatedSet, method: Method) -> list[AnnotatedImage]:
    """Return the images that a method trains on.

    As published: unless the method keeps empty images, those with any object, a crowd included,
    and no side under its smallest one.
    """
    if method.keeps_empty:
        return list(annotated.images)
    return [
        image
        for image in annotated.images
        if (image.objects is None or len(image.objects))
        and (image.size is None or min(image.size) >= method.smallest_side)
    ]


class TrainingSamples(Dataset[DenseSample]):
    """Samples by their position in a run, with random numbers that depend on it alone.

    Parameters
    ----------
    images : list[AnnotatedImage]
        See `images_to_train_on`.
    method : Method
        Its pipeline.
    seed : int
        Of the run.
    num_classes : int
        Of the set.
    """

    def __init__(
        self, images: list[AnnotatedImage], method: Method, seed: int, num_classes: int
    ) -> None:
        self._images = images
        self._method = method
        self._seed = seed
        self._num_classes = num_classes

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, sample: Sample) -> DenseSample:
        """Return the sample at a position; ImageError, AnnotationError where it is damaged."""
        read = read_sample(
            self._images[sample.image],
            for_training=True,
            with_masks=self._method.needs_masks,
            num_classes=self._num_classes,
        )
        generator = sample_generator(self._seed, sample.epoch, sample.position)
        return self._method.training(read, Draws(generator))


class TestSamples(Dataset[DenseSample]):
    """Images as a method is tested on them, by number, without annotations."""

    __test__ = False  # no class of tests

    def __init__(self, images: list[AnnotatedImage], method: Method) -> None:
        self._images = images
        self._method = method

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> DenseSample:
        """Return an image; ImageError where it is damaged."""
        sample = read_sample(self._images[number], for_training=False)
        return self._method.test(sample, GivenDraws(()))
