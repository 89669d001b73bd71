"""Labels and preprocessing in an exported file: text by name, the same in each format.

An ONNX file has them as its ``metadata_props``; the others in an extra file, ``transnext.json``,
that PyTorch keeps beside the graph.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from transnext_ops import __version__
from transnext_ops.distribution import NAME

from ..checkpoints.digest import sha256
from .request import FORMATS, Request
from .subject import Subject

__all__ = ["EXTRA_FILE", "describe", "read_metadata"]

EXTRA_FILE = "transnext.json"
_STRUCTURED = ("labels", "preprocess", "outputs", "size")


def describe(subject: Subject, request: Request, opset: int | None = None) -> dict[str, str]:
    """Return what a file says about its model."""
    size = request.size if isinstance(request.size, str) else list(request.size or subject.size)
    weights = Path(subject.weights)
    facts: dict[str, Any] = {
        "producer": f"{NAME} {__version__}",
        "model": subject.name,
        "weights_file": weights.name,
        "weights_sha256": sha256(weights),
        "labels": list(subject.labels),
        "preprocess": subject.preprocess,
        "outputs": list(subject.outputs),
        "size": size,
        "dtype": request.quantize or request.dtype,
    }
    return {
        name: json.dumps(fact, ensure_ascii=False) if name in _STRUCTURED else str(fact)
        for name, fact in facts.items()
    }


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what an exported file says about its model.

    Parameters
    ----------
    path : str | path
        Of one of :data:`FORMATS`, known by its suffix.

    Returns
    -------
    dict
        ``labels`` (list of str), ``preprocess`` (dict), ``model``, ``size`` and more by name.

    Raises
    ------
    ValueError
        The file is of another format, or says nothing.
    """
    path = Path(path)
    if path.suffix == FORMATS["onnx"]:
        import onnx

        found = onnx.load(path, load_external_data=False).metadata_props
        return _parsed(path, {entry.key: entry.value for entry in found})
    extra: dict[str, Any] = {EXTRA_FILE: ""}
    if path.suffix == FORMATS["pt2"]:
        with open(path, "rb") as file:
            torch.export.load(file, extra_files=extra)
    elif path.suffix == FORMATS["torchscript"]:
        torch.jit.load(path, _extra_files=extra)
    else:
        raise ValueError(f"path: got {str(path)!r}, needs one of {', '.join(FORMATS.values())}")
    text = extra[EXTRA_FILE]
    return _parsed(path, json.loads(text) if text else {})


def _parsed(path: Path, found: Mapping[str, str]) -> dict[str, Any]:
    if "preprocess" not in found:
        raise ValueError(f"path: {path} says nothing about its model: needs one that was exported")
    return {name: json.loads(text) if name in _STRUCTURED else text for name, text in found.items()}
