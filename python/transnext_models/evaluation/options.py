"""What an evaluation is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..variants import MIN_SIZE
from .engine import PRECISIONS
from .image_sets import V2
from .models import MODES

__all__ = ["EvaluationOptions"]

_CORRUPTIONS = ("stored", "generate")


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate, on which images, how, and where the results go.

    Attributes
    ----------
    model, weights, weights_key : str | None
        As `models.load_evaluated` takes them.
    imagenet, a, r, sketch, v2, c, folder : Path | None
        Where the sets are: a folder, or an uncompressed tar.
    real : bool
        Whether to judge the validation images by the ReaL labels too.
    real_labels : Path | None
        The published ``real.json``; None is the copy that timm carries.
    v2_variants : sequence of str
        Which of ImageNet-V2's three.
    corruptions : str
        ``stored``: ImageNet-C's images. ``generate``: made from the validation images.
    sizes : sequence of int
        Sides of the images; none for that of training.
    modes : sequence of str
        See `models.MODES`.
    output, save_predictions : Path, Path | None
        The table (``.csv``; ``.json`` and ``.md`` beside it); every answer (``.npz``).
    allow_incomplete : bool
        Go on where a set is not whole, and mark the result.
    precision : str | None
        ``float32``, ``float16`` or ``bfloat16``; None is float16 on CUDA, as published, else
        float32.
    backend, device : str | None, str
        Operator backend; torch device.
    workers : int | None
        Loading processes of each process; None is one per core.
    batch_size : int
        Images in the model at a time, of each process.

    Raises
    ------
    ValueError
        If a value is none of these, or no set is named.
    """

    output: Path
    model: str | None = None
    weights: str | None = None
    weights_key: str | None = None
    imagenet: Path | None = None
    real: bool = False
    real_labels: Path | None = None
    a: Path | None = None
    r: Path | None = None
    sketch: Path | None = None
    v2: Path | None = None
    c: Path | None = None
    folder: Path | None = None
    v2_variants: Sequence[str] = ("matched-frequency",)
    corruptions: str = "stored"
    sizes: Sequence[int] = ()
    modes: Sequence[str] = ("normal",)
    save_predictions: Path | None = None
    allow_incomplete: bool = False
    precision: str | None = None
    backend: str | None = None
    device: str = "auto"
    workers: int | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        _check_all("mode", self.modes, MODES)
        _check_all("v2_variants", self.v2_variants, tuple(V2))
        _check_all("corruptions", [self.corruptions], _CORRUPTIONS)
        if self.precision is not None:
            _check_all("precision", [self.precision], tuple(PRECISIONS))
        for size in self.sizes:
            if isinstance(size, bool) or not isinstance(size, int) or size < MIN_SIZE:
                raise ValueError(f"size: got {size!r}, needs an int of at least {MIN_SIZE}")
        if self.batch_size < 1:
            raise ValueError(f"batch_size: got {self.batch_size}, needs at least 1")
        if self.workers is not None and self.workers < 0:
            raise ValueError(f"workers: got {self.workers}, needs at least 0")
        if self.real and self.imagenet is None:
            raise ValueError("real: got no images, needs imagenet: its labels are of those")
        if self.corruptions == "generate":
            if self.imagenet is None:
                raise ValueError("corruptions: got 'generate', needs imagenet to make them from")
            if self.c is not None:
                raise ValueError("c: got a folder, and corruptions 'generate': needs one of them")
        if not any((self.imagenet, self.a, self.r, self.sketch, self.v2, self.c, self.folder)):
            raise ValueError("imagenet, a, r, sketch, v2, c, folder: got none, needs one at least")


def _check_all(name: str, values: Sequence[str], known: Sequence[str]) -> None:
    for value in values:
        if value not in known:
            raise ValueError(f"{name}: got {value!r}, needs one of {', '.join(known)}")
    if not values or len(set(values)) < len(values):
        raise ValueError(f"{name}: got {', '.join(values) or 'none'}, needs each once")
