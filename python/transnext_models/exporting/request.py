"""What an export is asked for; what cannot be had is refused here, by name, before any work."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from ..layers.arguments import one_of
from ..variants import MIN_SIZE

__all__ = ["DTYPES", "DYNAMIC", "DYNAMIC_MIN", "FORMATS", "Request", "Size", "parse_size"]

DYNAMIC = "dynamic"
DYNAMIC_MIN, DYNAMIC_MAX = 64, 8192
"""Sides of images that a graph of free sizes takes: below, a pooled grid is a single cell, and
PyTorch traces a length of 1 for itself."""

FORMATS = {"onnx": ".onnx", "pt2": ".pt2", "torchscript": ".pt"}
"""Formats, and the suffix of a file of each."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_QUANTISED = (None, "int8")

Size = tuple[int, int] | str | None


def parse_size(text: str) -> Size:
    """Return ``"224"`` or ``"224x288"`` as (height, width), ``"dynamic"`` as :data:`DYNAMIC`.

    Raises
    ------
    ValueError
        It is nothing of this, or a side is below 32.
    """
    if text == DYNAMIC:
        return DYNAMIC
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise ValueError(f"size: got {text!r}, needs 224, 224x288 (height x width) or {DYNAMIC}")
    height, width = int(sides[0]), int(sides[-1])
    if min(height, width) < MIN_SIZE:
        raise ValueError(f"size: got {text!r}, needs sides of at least {MIN_SIZE}")
    return height, width


@dataclass(frozen=True)
class Request:
    """An export.

    Attributes
    ----------
    output : Path
        The file to write.
    format : str
        One of :data:`FORMATS`; None is the one that the suffix of `output` says.
    size : (int, int) | "dynamic" | None
        Height and width of images; "dynamic" leaves both free. None is the model's own size.
    dtype : str
        Of weights and features: float32, float16 or bfloat16. Images and outputs are float32.
    quantize : "int8" | None
        Weights, and with `calibration` activations too, in 8 bits.
    calibration : Path | None
        A folder of images to find the activations' ranges with.
    overwrite : bool
        Replace `output` where it exists.

    Raises
    ------
    ValueError
        Something of this is unknown, or they do not go together; names it, and what is needed.
    """

    output: Path
    format: str | None = None
    size: Size = None
    dtype: str = "float32"
    quantize: str | None = None
    calibration: Path | None = None
    overwrite: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "format", self.format or self._format_of_suffix())
        one_of("format", self.format, tuple(FORMATS))
        one_of("dtype", self.dtype, tuple(DTYPES))
        one_of("quantize", self.quantize, _QUANTISED)
        if self.calibration is not None and self.quantize is None:
            raise ValueError("calibration: got a folder, which needs quantize='int8'")
        if self.quantize is not None and self.format != "onnx":
            raise ValueError(
                f"quantize: got {self.quantize!r} with format {self.format!r}, needs format 'onnx' "
                "(torchao quantises the PyTorch model, see the guide)"
            )
        if self.quantize is not None and self.dtype != "float32":
            raise ValueError(f"dtype: got {self.dtype!r} with quantize, needs 'float32'")
        if self.format == "onnx" and self.dtype == "bfloat16":
            raise ValueError(
                "dtype: got 'bfloat16', which ONNX Runtime cannot run on a CPU: needs 'float16' or "
                "'float32', or format 'pt2' or 'torchscript'"
            )
        if self.format == "torchscript" and self.size == DYNAMIC:
            raise ValueError(
                "size: got 'dynamic', but a TorchScript trace holds for one image size: needs a "
                "size such as 224x288, or format 'pt2' or 'onnx'"
            )
        self._check_target()

    @property
    def is_dynamic(self) -> bool:
        """Whether height and width stay free."""
        return self.size == DYNAMIC

    def _format_of_suffix(self) -> str:
        for name, suffix in FORMATS.items():
            if self.output.suffix == suffix:
                return name
        known = ", ".join(f"{suffix} ({name})" for name, suffix in FORMATS.items())
        raise ValueError(f"output: got {str(self.output)!r}, needs one of {known}, or a format")

    def _check_target(self) -> None:
        if self.output.is_dir():
            raise ValueError(f"output: got the folder {self.output}, needs a file's name")
        if not self.output.parent.is_dir():
            raise ValueError(f"output: there is no folder {self.output.parent} to write it in")
        if self.output.exists() and not self.overwrite:
            raise ValueError(
                f"output: {self.output} exists already; it is replaced only on demand (--force)"
            )
