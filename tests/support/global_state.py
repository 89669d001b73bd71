"""Global state that a test may change, saved before it and restored after it.

:func:`preserved` reads everything that :data:`_SETTINGS` and its kin list, and writes back what
differs afterwards. PyTorch's part is left out while nobody has imported torch: the reference's
tests run without it. Warning filters need no care here, pytest restores them itself.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_UNREADABLE = object()  # PyTorch refuses to read a setting that was set in two ways
_MATMUL_SETTINGS = (  # parents before children
    ("generic", "all"),
    *(("cuda", operator) for operator in ("all", "matmul", "conv", "rnn")),
    *(("mkldnn", operator) for operator in ("all", "matmul", "conv", "rnn")),
)


@contextmanager
def preserved() -> Iterator[None]:
    """Restore on exit what the block has changed of this process's global state."""
    folder, environment = os.getcwd(), dict(os.environ)
    torch_state = _TorchState() if "torch" in sys.modules else None
    backend = _backend_choices()
    _seed()
    try:
        yield
    finally:
        os.chdir(folder)
        if os.environ != environment:
            os.environ.clear()
            os.environ.update(environment)
        if torch_state is not None:
            torch_state.restore()
        _restore_backend_choices(backend)


def _seed() -> None:
    """Start from the same random numbers, whichever tests ran before."""
    random.seed(0)
    if (numpy := sys.modules.get("numpy")) is not None:
        numpy.random.seed(0)
    if (torch := sys.modules.get("torch")) is not None:
        torch.default_generator.manual_seed(0)
        if torch.cuda.is_initialized():
            torch.cuda.manual_seed_all(0)


class _TorchState:
    """PyTorch's settings at the time of construction."""

    def __init__(self) -> None:
        self._torch: Any = sys.modules["torch"]
        self._values = [(write, _read(read), read) for read, write in _settings(self._torch)]
        self._precisions = self._fp32_precisions()
        self._compiled = _compiled_frames()

    def restore(self) -> None:
        changed = False
        for write, value, read in self._values:
            now = _read(read)
            if value is not _UNREADABLE and now is not value and now != value:
                write(value)
                changed = True
        if changed or self._fp32_precisions() != self._precisions:
            self._restore_fp32_precisions()
        if _compiled_frames() != self._compiled:
            # Another test of the same function would reach the limit of recompilations.
            importlib.import_module("torch._dynamo").reset()

    def _fp32_precisions(self) -> list[str]:
        """Read the settings that PyTorch has since 2.9."""
        read = getattr(self._torch._C, "_get_fp32_precision_getter", None)
        return [] if read is None else [read(*setting) for setting in _MATMUL_SETTINGS]

    def _restore_fp32_precisions(self) -> None:
        for setting, value in zip(_MATMUL_SETTINGS, self._precisions, strict=False):
            # "none" means the parent's; what the parent already says is not repeated in the child.
            self._torch._C._set_fp32_precision_setter(*setting, "none")
            if self._torch._C._get_fp32_precision_getter(*setting) != value:
                self._torch._C._set_fp32_precision_setter(*setting, value)


def _read(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except RuntimeError:
        return _UNREADABLE


def _settings(torch: Any) -> list[tuple[Callable[[], Any], Callable[[Any], None]]]:
    """Return how to read and how to write each of PyTorch's settings.

    ``allow_tf32`` comes before the float32 precision, a part of which it overwrites.
    """
    deterministic = (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
    )
    device = (
        torch.get_default_device,
        lambda value: torch.set_default_device(None if value.type == "cpu" else value),
    )
    autocast = [
        (
            lambda kind=kind: (torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)),
            lambda value, kind=kind: (
                torch.set_autocast_enabled(kind, value[0]),
                torch.set_autocast_dtype(kind, value[1]),
            ),
        )
        for kind in ("cpu", "cuda")
    ]
    backends = torch.backends
    attributes = [
        (backends.cuda.matmul, "allow_tf32"),
        (backends.cuda.matmul, "allow_fp16_reduced_precision_reduction"),
        (backends.cuda.matmul, "allow_bf16_reduced_precision_reduction"),
        (backends.cudnn, "allow_tf32"),
        (backends.cudnn, "enabled"),
        (backends.cudnn, "benchmark"),
        (backends.cudnn, "deterministic"),
        (torch.utils.deterministic, "fill_uninitialized_memory"),
    ]
    return [
        *((_reader(*attribute), _writer(*attribute)) for attribute in attributes),
        (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        (torch.get_num_threads, torch.set_num_threads),
        (torch.get_default_dtype, torch.set_default_dtype),
        (torch.is_grad_enabled, torch._C._set_grad_enabled),
        deterministic,
        device,
        *autocast,
    ]


def _reader(owner: Any, name: str) -> Callable[[], Any]:
    return lambda: getattr(owner, name)


def _writer(owner: Any, name: str) -> Callable[[Any], None]:
    return lambda value: setattr(owner, name, value)


def _compiled_frames() -> int:
    """Return how many functions ``torch.compile`` has looked at, none where it is not loaded."""
    return getattr(sys.modules.get("torch._dynamo.convert_frame"), "FRAME_COUNTER", 0)


def _backend_choices() -> tuple[str | None, str | None]:
    """Return the operators' backend as chosen for the process and for this thread."""
    registry = _registry()
    return (None, None) if registry is None else (registry._process.name, registry._thread.name)


def _restore_backend_choices(choices: tuple[str | None, str | None]) -> None:
    if (registry := _registry()) is not None:
        registry._process.name, registry._thread.name = choices


def _registry() -> Any:
    set_backend = getattr(sys.modules.get("transnext_ops"), "set_backend", None)
    return None if set_backend is None else sys.modules[set_backend.__module__]
