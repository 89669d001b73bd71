"""Names of classes."""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from pathlib import Path

_DIGITS = tuple(str(digit) for digit in range(10))
_TIMM_DATA = ("data", "_info")


def class_names(labels: str, num_classes: int) -> list[str]:
    """Return a name for every class.

    Parameters
    ----------
    labels : str
        Name of a list: ``imagenet_1k`` or ``digits``; any other has no names.
    num_classes : int
        Number of classes of the model.

    Returns
    -------
    list of str
        ``class 0``, ``class 1``, ... if the list is unknown, of another length, or, for
        ``imagenet_1k``, not installed: the names come with timm (``pip install timm``).
    """
    names: tuple[str, ...] = ()
    if labels == "digits":
        names = _DIGITS
    elif labels == "imagenet_1k":
        names = _imagenet_1k()
    if len(names) == num_classes:
        return list(names)
    return [f"class {index}" for index in range(num_classes)]


@lru_cache(maxsize=1)
def _imagenet_1k() -> tuple[str, ...]:
    """Return ImageNet-1K's class names in the usual order of WordNet ids, or () without timm.

    Read from timm's data files, since importing timm takes seconds.
    """
    folder = timm_data_folder()
    if folder is None:
        return ()
    try:
        synsets = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
        lines = (folder / "imagenet_synset_to_lemma.txt").read_text(encoding="utf-8").splitlines()
        lemmas = dict(line.split("\t", 1) for line in lines if line)
        # Of several words for the same thing the first is enough.
        return tuple(lemmas[synset].split(",")[0].strip() for synset in synsets)
    except (OSError, KeyError, ValueError):
        return ()


def timm_data_folder() -> Path | None:
    """Return the folder of timm's lists of classes, None without timm."""
    spec = importlib.util.find_spec("timm")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], *_TIMM_DATA)
