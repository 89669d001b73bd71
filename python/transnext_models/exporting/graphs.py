"""A model's graph in each format, as the bytes of a file."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from .metadata import EXTRA_FILE
from .request import DYNAMIC_MAX, DYNAMIC_MIN, Request
from .subject import Exportable

__all__ = ["IMAGES", "onnx_bytes", "pt2_bytes", "quiet", "torchscript_bytes", "with_metadata"]

IMAGES = "images"
"""Name of a graph's input."""

_BATCH_MAX = 4096
_TRACED = (2, 96, 128)  # images, height and width of which a graph of free sizes is traced


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep exporters' remarks on their own insides from who exports a model."""
    loggers = [logging.getLogger(name) for name in ("torch", "onnxscript", "onnx_ir", "root")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _example(request: Request, size: tuple[int, int]) -> Tensor:
    batch, *free = _TRACED
    return torch.zeros(batch, 3, *(free if request.is_dynamic else size))


def _program(model: Exportable, request: Request, size: tuple[int, int]) -> Any:
    dim = torch.export.Dim
    open_axes = {0: dim("batch", min=1, max=_BATCH_MAX)}
    if request.is_dynamic:
        open_axes |= {
            2: dim("height", min=DYNAMIC_MIN, max=DYNAMIC_MAX),
            3: dim("width", min=DYNAMIC_MIN, max=DYNAMIC_MAX),
        }
    from torch._dynamo import config  # imports all of sympy

    # With open sizes, what it keeps of a result takes longer to make than the result.
    without_cache = config.patch(fake_tensor_cache_enabled=False)
    with quiet(), torch.no_grad(), without_cache:
        return torch.export.export(
            model, (_example(request, size),), dynamic_shapes=(open_axes,), strict=False
        )


def pt2_bytes(
    model: Exportable, request: Request, size: tuple[int, int], about: Mapping[str, str]
) -> bytes:
    """Return the file of ``torch.export``: the graph and the weights."""
    program = _program(model, request, size)
    buffer = io.BytesIO()
    with quiet():
        torch.export.save(program, buffer, extra_files={EXTRA_FILE: json.dumps(dict(about))})
    return buffer.getvalue()


def torchscript_bytes(
    model: Exportable, request: Request, size: tuple[int, int], about: Mapping[str, str]
) -> bytes:
    """Return the file of ``torch.jit.trace``."""
    buffer = io.BytesIO()
    with quiet(), torch.no_grad():
        traced = torch.jit.trace(model, _example(request, size), check_trace=False)
        torch.jit.save(traced, buffer, _extra_files={EXTRA_FILE: json.dumps(dict(about))})
    return buffer.getvalue()


def onnx_bytes(
    model: Exportable, request: Request, size: tuple[int, int], outputs: list[str]
) -> bytes:
    """Return the file of the ONNX exporter that reads graphs of ``torch.export``."""
    program = _program(model, request, size)
    with quiet():
        exported = torch.onnx.export(
            program, input_names=[IMAGES], output_names=outputs, dynamo=True, verbose=False
        )
    assert exported is not None
    return exported.model_proto.SerializeToString()


def with_metadata(content: bytes, about: Mapping[str, str]) -> bytes:
    """Return an ONNX file with metadata, in place of any it has."""
    import onnx

    model = onnx.load_from_string(content)
    onnx.helper.set_model_props(model, dict(about))
    return model.SerializeToString()
