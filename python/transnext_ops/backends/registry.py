"""Which implementation runs: names, selection, and the words that explain it.

Four backends exist. ``torch`` is a *composite*: plain differentiable PyTorch that ``torch.compile``
inlines. ``reference``, ``cpp`` and ``cupy`` are *kernel* backends: forward and backward functions
that run behind the custom operators of :mod:`transnext_ops.dispatch.custom_operators`. Each is one
module, ``transnext_ops.backends.<name>_backend``, imported on first use, with ``unavailable()``
(why it cannot run in this process) and ``unsupported(call)`` (why it cannot run this call).
"""

from __future__ import annotations

import functools
import importlib
import operator
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch

from transnext_ops import schema
from transnext_ops.tracing import constant_in_graphs

BACKEND_NAMES = ("reference", "torch", "cpp", "cupy")
KERNEL_BACKENDS = ("reference", "cpp", "cupy")
OPERATORS = tuple(schema.OPERATORS)
ENVIRONMENT_VARIABLE = "TRANSNEXT_OPS_BACKEND"

# Fastest first. `reference` is never chosen automatically: it is the oracle of the tests.
_AUTO_ORDER = {"cpu": ("cpp", "torch"), "cuda": ("cpp", "cupy", "torch")}
_AUTO_ORDER_ELSEWHERE = ("torch",)

ACTIVATION_DTYPES = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class BackendError(RuntimeError):
    """A backend that was asked for by name cannot run; the message says what is missing."""


@dataclass(frozen=True)
class Call:
    """What decides whether a backend can run a call.

    Attributes
    ----------
    op : str
        One of :data:`OPERATORS`.
    device : torch.device
    dtype : torch.dtype
        Storage type of the activations.
    head_dim, window_size : int or None
        None where the operator has none.
    """

    op: str
    device: torch.device
    dtype: torch.dtype
    head_dim: int | None = None
    window_size: int | None = None


class _ProcessDefault:
    """The process-wide choice; an object, so that torch.compile guards on its attribute."""

    name: str | None = None


class _ThreadChoice(threading.local):
    """The choice of the enclosing ``use_backend`` of this thread, if any."""

    name: str | None = None


_process = _ProcessDefault()
_thread = _ThreadChoice()


def check_backend_name(name: object, argument: str = "backend") -> str:
    """Return `name` if it is a backend's name or ``"auto"``; raise ValueError naming `argument`."""
    if name == "auto" or name in BACKEND_NAMES:
        return str(name)
    choices = ", ".join(repr(choice) for choice in ("auto", *BACKEND_NAMES))
    raise ValueError(f"{argument}: got {name!r}, needs one of {choices}")


def backend_module(name: str) -> ModuleType:
    """Import (once) and return the module of a backend."""
    return importlib.import_module(f"transnext_ops.backends.{name}_backend")


_kernel_modules: dict[str, ModuleType] = {}  # of the backends used so far


def kernel(op: str, backend: str) -> Callable[..., Any]:
    """Return the function of a kernel backend that runs an operator or a backward.

    Raises
    ------
    ValueError
        `backend` is not a kernel backend.
    """
    module = _kernel_modules.get(backend)
    if module is None:
        if backend not in KERNEL_BACKENDS:
            raise ValueError(
                f"backend: got {backend!r}, torch.ops.transnext.{op} needs one of {KERNEL_BACKENDS}"
            )
        module = _kernel_modules[backend] = backend_module(backend)
    return getattr(module, op)


def unavailable_reason(name: str) -> str | None:
    """Say why a backend cannot run in this process at all, or None if it can."""
    return backend_module(check_backend_name(name)).unavailable()


def unsupported_reason(name: str, call: Call) -> str | None:
    """Say why a backend cannot run `call`, or None if it can."""
    module = backend_module(name)
    return module.unavailable() or module.unsupported(call)


def _require_available(name: str) -> None:
    reason = None if name == "auto" else unavailable_reason(name)
    if reason is not None:
        raise BackendError(f"backend {name!r} cannot run here: {reason}")


def set_backend(name: str) -> None:
    """Choose the backend of every operator call in this process.

    Parameters
    ----------
    name : {"auto", "reference", "torch", "cpp", "cupy"}
        ``auto`` takes the fastest backend that supports each call. Any other name never falls
        back: a call it cannot run raises :class:`BackendError`.

    Raises
    ------
    ValueError
        `name` is not a backend.
    BackendError
        The backend cannot run in this process; the current choice stays as it was.
    """
    _require_available(check_backend_name(name, "name"))
    _process.name = name


def get_backend() -> str:
    """Return the backend in force in this thread.

    That is the one of ``use_backend``, else of ``set_backend``, else of the environment variable
    ``TRANSNEXT_OPS_BACKEND``, else ``"auto"``.
    """
    return _thread.name or _process.name or _environment_choice()


@constant_in_graphs
def _environment_choice() -> str:
    name = os.environ.get(ENVIRONMENT_VARIABLE) or "auto"
    return check_backend_name(name, f"environment variable {ENVIRONMENT_VARIABLE}")


@contextmanager
def use_backend(name: str) -> Iterator[None]:
    """Choose the backend inside a ``with`` block or a decorated function, in this thread only.

    Nested uses restore the outer choice, also when an exception passes. Raises as
    :func:`set_backend` does. The backward of a call runs on the backend of its forward.
    """
    _require_available(check_backend_name(name, "name"))
    outer = _thread.name
    _thread.name = name
    try:
        yield
    finally:
        _thread.name = outer


def available_backends() -> list[str]:
    """Return the names of the backends that can run in this process (for some device)."""
    return [name for name in BACKEND_NAMES if unavailable_reason(name) is None]


def _auto_order(device_type: str) -> tuple[str, ...]:
    return _AUTO_ORDER.get(device_type, _AUTO_ORDER_ELSEWHERE)


def choose(
    requested: str,
    op: str,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int | None,
    window_size: int | None,
) -> str:
    """Return the backend that runs a call, as :func:`resolve` does, at the least cost per call."""
    if torch.compiler.is_compiling():
        return resolve(requested, Call(op, device, dtype, head_dim, window_size))
    if torch.jit.is_tracing():
        requested = _exported(requested)
    return _decide(requested, op, device, dtype, head_dim, window_size)


def resolve(requested: str, call: Call) -> str:
    """Return the backend that runs `call` when `requested` is asked for.

    Raises
    ------
    BackendError
        A backend asked for by name cannot run the call.
    """
    # index() makes a traced size a plain int, with a guard: the decision depends on its value.
    head_dim = None if call.head_dim is None else operator.index(call.head_dim)
    window_size = None if call.window_size is None else operator.index(call.window_size)
    return _resolve(requested, call.op, call.device, call.dtype, head_dim, window_size)


# Opaque to torch.compile: a trace bakes the decision in. It is guarded by the requested name, which
# is read in the traced code.
@constant_in_graphs
def _resolve(requested: str, *call: Any) -> str:
    return _decide(_exported(requested), *call)


# PyTorch 2.6 does not say so; its exported programs then hold the operators of the package.
_is_exporting: Callable[[], bool] = getattr(torch.compiler, "is_exporting", lambda: False)


def _exported(requested: str) -> str:
    """Return the backend for a graph that leaves this process.

    TorchScript and ONNX know PyTorch's operators alone, so whatever is asked for here is not for
    them. A program of ``torch.export`` may hold others, those of a backend that is named, and then
    runs where the package is.
    """
    onnx = sys.modules.get("torch.onnx")
    if torch.jit.is_tracing() or (onnx is not None and onnx.is_in_onnx_export()):
        return "torch"
    return "torch" if requested == "auto" and _is_exporting() else requested


# Availability does not change while a process runs, so each kind of call is decided once.
@functools.lru_cache(maxsize=4096)
def _decide(requested: str, *fields: Any) -> str:
    """Decide for the call of these fields; a Call itself costs more to make and to look up."""
    call = Call(*fields)
    if requested != "auto":
        reason = unsupported_reason(requested, call)
        if reason is not None:
            what = f"{call.op} on {call.device}"
            raise BackendError(f"backend {requested!r} cannot run {what}: {reason}")
        return requested
    for name in _auto_order(call.device.type):
        if unsupported_reason(name, call) is None:
            return name
    raise BackendError(
        f"no backend can run {call.op} on {call.device} with {call.dtype}\n" + _explain(call)
    )


def explain_backend(
    op: str = "aggregated_attention",
    *inputs: torch.Tensor,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
    head_dim: int | None = None,
    window_size: int | None = None,
) -> str:
    """Say in words which backend would run a call, and why each other one would not.

    Parameters
    ----------
    op : str
        An operator's public name.
    *inputs : torch.Tensor
        The call's tensors; the first sets device, dtype and (attention, windows) head dim.
    device, dtype, head_dim, window_size
        Override what `inputs` say. Defaults: CPU, float32, 24, 3.

    Returns
    -------
    str
        One line for the decision and one for every backend.

    Raises
    ------
    TypeError, ValueError
        `op` is no operator, or `inputs` are not its tensors.
    """
    kernel_op = {
        "pixel_focused_attention": "aggregated_attention",
        "global_attention": "aggregated_attention",
        "position_bias": "position_bias_table",
    }.get(op, op)
    if kernel_op not in OPERATORS:
        public = (*OPERATORS, "pixel_focused_attention", "global_attention", "position_bias")
        raise ValueError(f"op: got {op!r}, needs one of {', '.join(public)}")
    has_heads = kernel_op in ("aggregated_attention", "window_qk", "window_av")
    if inputs:
        first = inputs[-1] if kernel_op == "window_av" else inputs[0]
        if not isinstance(first, torch.Tensor):
            raise TypeError(f"inputs: got {type(first).__name__}, needs the call's tensors")
        if has_heads and first.dim() != 4:
            raise ValueError(
                f"inputs: got {first.dim()} dimensions, needs the 4 of {op}'s tensors, "
                "the last being the head dim"
            )
        device = device if device is not None else first.device
        dtype = dtype if dtype is not None else first.dtype
        if has_heads and head_dim is None:
            head_dim = first.shape[-1]
    if window_size is None and op == "global_attention":
        window_size = 0
    call = Call(
        kernel_op,
        torch.device(device if device is not None else "cpu"),
        dtype if dtype is not None else torch.float32,
        (24 if head_dim is None else head_dim) if has_heads else None,
        (3 if window_size is None else window_size) if has_heads else None,
    )
    requested = get_backend()
    try:
        decision = f"runs on backend {resolve(requested, call)!r}"
    except BackendError as error:
        decision = f"would raise: {error.args[0].splitlines()[0]}"
    dtype_name = str(call.dtype).removeprefix("torch.")
    head = f"{op} on {call.device} with {dtype_name} {decision} (asked for: {requested!r})"
    return f"{head}\n{_explain(call)}"


def _explain(call: Call) -> str:
    order = _auto_order(call.device.type)
    lines = []
    for name in BACKEND_NAMES:
        reason = unsupported_reason(name, call)
        if reason is None and name in order:
            reason = f"can run it; choice {order.index(name) + 1} of auto on {call.device.type}"
            if name == "cpp" and call.device.type == "cpu":
                reason = f"{reason}; {backend_module(name).cpu_level()}"
        elif reason is None:
            reason = "can run it; chosen only by name"
        lines.append(f"  {name:<9} {reason}")
    return "\n".join(lines)
