"""A model's forward pass in CUDA graphs, one for each shape of its inputs."""

from __future__ import annotations

import threading
from collections.abc import Hashable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from .recorders import CudaGraphs, Recorder, has_graphs
from .replayed import LastUsed, Replayed
from .state import ModelState

__all__ = ["CapturedModel", "capture"]

_WARM_UP = 2


class CapturedModel(nn.Module):
    """A model whose forward pass is replayed; see `capture`.

    Attributes
    ----------
    model : Module
        What is captured.
    """

    def __init__(self, model: nn.Module, graphs: int, recorder: Recorder | None) -> None:
        super().__init__()
        self.model = model
        self._recorder = recorder
        self._forwards: LastUsed[_Forward] = LastUsed(graphs)
        self._state = ModelState(model)  # of which the recordings are
        self._lock = threading.Lock()

    def forward(self, *inputs: Tensor) -> Any:
        """Return the model's output, in memory of its own."""
        if torch.is_grad_enabled() or self.training or self.model.training:
            return self.model(*inputs)
        with self._lock:
            recorder = self._recorder_for(inputs)
            if recorder is None:
                return self.model(*inputs)
            return self._recorded(inputs).run(inputs, recorder)

    def _recorder_for(self, inputs: tuple[Tensor, ...]) -> Recorder | None:
        if self._recorder is None and inputs and has_graphs(inputs[0].device):
            with torch.cuda.device(inputs[0].device):
                self._recorder = CudaGraphs()
        return self._recorder

    def _recorded(self, inputs: tuple[Tensor, ...]) -> _Forward:
        """Return what runs inputs of this shape, as long as the weights are those recorded."""
        if self._state.has_changed():
            self._forwards.values.clear()
            self._state = ModelState(self.model)
        key = (_autocast(inputs[0].device), *(_layout(each) for each in inputs))
        return self._forwards.get(key, lambda: _Forward(self.model, inputs))


class _Forward:
    """The forward pass for inputs of one shape."""

    def __init__(self, model: nn.Module, like: tuple[Tensor, ...]) -> None:
        self._model = model
        self._inputs = tuple(torch.empty_like(each) for each in like)
        self._outputs: Any = None
        self._work = Replayed(self._run, _WARM_UP)

    def run(self, inputs: tuple[Tensor, ...], recorder: Recorder) -> Any:
        for buffer, given in zip(self._inputs, inputs, strict=True):
            buffer.copy_(given, non_blocking=True)
        self._work(recorder)
        return _pytree.tree_map_only(Tensor, Tensor.clone, self._outputs)

    def _run(self) -> None:
        self._outputs = self._model(*self._inputs)


def _layout(x: Tensor) -> Hashable:
    return x.dtype, x.device, x.shape, x.stride()


def _autocast(device: torch.device) -> Hashable:
    if not torch.is_autocast_enabled(device.type):
        return None
    return torch.get_autocast_dtype(device.type)


def capture(
    model: nn.Module, *, graphs: int = 8, recorder: Recorder | None = None
) -> CapturedModel:
    """Return a model whose forward pass is replayed from CUDA graphs.

        model = capture(create_model("transnext_tiny", pretrained=True).cuda().freeze())
        with torch.no_grad():
            logits = model(images)

    The first two calls with a shape of inputs run eagerly, the third is recorded, and those after
    are replayed: one launch for the whole model. Another shape, dtype, layout or autocast has a
    recording of its own. With gradients recorded, in training mode and on a CPU the model is called
    as it is.

    Weights may be edited in place between calls; where they are moved, cast or replaced, layers are
    replaced, or frozen weights (`TransNeXt.freeze`) change, graphs are recorded again. Hooks run
    while recording alone. Calls from several threads follow each other, and belong to one CUDA
    stream.

    Parameters
    ----------
    model : Module
        Takes and returns tensors (or tuples, lists, dicts of them) of the same device and waits
        for the device nowhere: classifiers and backbones do not, detectors do.
    graphs : int
        Recordings that are kept, those used last. They share memory for what lies between input and
        output.
    recorder : Recorder, optional
        What records; None is CUDA graphs on a GPU, nothing elsewhere.

    Returns
    -------
    CapturedModel

    Raises
    ------
    ValueError
        `graphs` is not a positive int.
    """
    return CapturedModel(model, graphs, recorder)
