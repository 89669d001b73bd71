"""What of a model a recording holds fast: its layers, and where its weights lie."""

from __future__ import annotations

from torch import Tensor, nn

from ..layers.derived import DerivesFromWeights

__all__ = ["ModelState"]


class ModelState:
    """The layers and weights of a model at one moment.

    A replay reads weights from their memory, so edits in place are no change; what was derived from
    frozen ones is part of the recording, so then they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._parts = list(model.modules())
        self._derived = [m.derived for m in self._parts if isinstance(m, DerivesFromWeights)]
        # References, so that no id can become another object's.
        self._layers, self._tensors = self._layers_now(), self._tensors_now()
        self._frozen = self._is_frozen()
        self._where = self._where_now(self._tensors)

    def has_changed(self) -> bool:
        """Whether anything is another now; asked at every call, so it walks no tree."""
        tensors = self._tensors_now()
        return (
            self._is_frozen() != self._frozen
            or _ids(tensors) != _ids(self._tensors)
            or _ids(self._layers_now()) != _ids(self._layers)
            or self._where_now(tensors) != self._where
        )

    def _layers_now(self) -> list[nn.Module | None]:
        return [layer for part in self._parts for layer in part._modules.values()]

    def _tensors_now(self) -> list[Tensor | None]:
        found: list[Tensor | None] = []
        for part in self._parts:
            found += part._parameters.values()
            found += part._buffers.values()
        return found

    def _is_frozen(self) -> bool:
        return any(each.frozen for each in self._derived)

    def _where_now(self, tensors: list[Tensor | None]) -> list[int]:
        present = [tensor for tensor in tensors if tensor is not None]
        where = [tensor.data_ptr() for tensor in present]
        if self._frozen:
            where += [0 if tensor.is_inference() else tensor._version for tensor in present]
        return where


def _ids(objects: list[Tensor | None] | list[nn.Module | None]) -> list[int]:
    return [id(each) for each in objects]
