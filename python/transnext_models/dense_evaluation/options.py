"""What an evaluation of detection or segmentation is asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ..evaluation.engine import PRECISIONS

__all__ = ["MODES", "DenseOptions"]

MODES = ("published", "whole", "slide", "multi_scale", "multi_scale_extrapolated")
"""Of segmentation; "published" is that of the method's single-scale results."""


@dataclass(frozen=True)
class DenseOptions:
    """What to evaluate, on which images, how, and where the results go.

    Attributes
    ----------
    task : {"detect", "segment"}
        Objects, or the class of every pixel.
    output : Path
        The table: ``.csv``; ``.json`` and ``.md`` lie beside it.
    model, weights, weights_key : str | None
        As `Detector.load` and `Segmentor.load` take them.
    data : Path | None
        A folder in any of the layouts of `dense_data.find`; its validation split counts.
    images, annotations : Path | None
        Instead, for detection: a folder or archive of images, and a file of COCO's format.
    predictions : Path | None
        Score these instead of a model's: a file of COCO's results, or a folder of label maps.
    save_predictions : Path | None
        Where answers are saved: such a file, or such a folder.
    modes : sequence of str
        Of segmentation, see `MODES`.
    limit : int | None
        Only so many of the images, the first; rows are marked.
    allow_incomplete : bool
        Go on where images are missing, and mark the rows.
    precision : str
        ``float32``; or ``float16`` or ``bfloat16`` under autocast.
    backend, device : str | None, str
        Operator backend; torch device.
    workers : int | None
        Loading processes of each process; None is one per core.

    Raises
    ------
    ValueError
        If a value is none of these, or they do not go together.
    """

    task: Literal["detect", "segment"]
    output: Path
    model: str | None = None
    weights: str | None = None
    weights_key: str | None = None
    data: Path | None = None
    images: Path | None = None
    annotations: Path | None = None
    predictions: Path | None = None
    save_predictions: Path | None = None
    modes: Sequence[str] = ("published",)
    limit: int | None = None
    allow_incomplete: bool = False
    precision: str = "float32"
    backend: str | None = None
    device: str = "auto"
    workers: int | None = None

    def __post_init__(self) -> None:
        if (self.images is None) != (self.annotations is None):
            raise ValueError("images, annotations: got one of them, needs both")
        if (self.data is None) == (self.images is None):
            both = "both kinds" if self.data is not None else "no data"
            raise ValueError(
                f"data: got {both}, needs a folder"
                + (", or images and annotations" if self.task == "detect" else "")
            )
        for mode in self.modes:
            if mode not in MODES:
                raise ValueError(f"mode: got {mode!r}, needs one of {', '.join(MODES)}")
        if not self.modes or len(set(self.modes)) < len(self.modes):
            raise ValueError(f"mode: got {', '.join(self.modes) or 'none'}, needs each once")
        if self.precision not in PRECISIONS:
            raise ValueError(
                f"precision: got {self.precision!r}, needs one of {', '.join(PRECISIONS)}"
            )
        for name, value, least in (("limit", self.limit, 1), ("workers", self.workers, 0)):
            if value is not None and value < least:
                raise ValueError(f"{name}: got {value}, needs at least {least}")
        if self.predictions is not None:
            for name in ("weights", "weights_key", "save_predictions", "backend"):
                if getattr(self, name) is not None:
                    raise ValueError(f"{name}: got it with predictions, which no model makes")
        save = self.save_predictions
        if save is not None and self.task == "detect" and save.suffix != ".json":
            raise ValueError(f"save_predictions: got {save}, needs a name that ends in .json")
        if self.output.with_suffix(".json") in (save, self.predictions):
            raise ValueError(
                f"output: got {self.output}, whose .json file is that of the predictions: needs "
                "another name"
            )
        if save is not None and self.task == "segment" and save.exists() and not save.is_dir():
            raise ValueError(f"save_predictions: got {save}, a file, needs a folder")
