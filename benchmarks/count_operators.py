"""The operators that a model runs on a GPU, and the bytes that they move, counted without one.

    python -m benchmarks.count_operators                        # Tiny 224x224 batch 64 float16
    python -m benchmarks.count_operators --training --by-operator

The model runs on fake tensors, which have shapes and types but no memory. Each operator that
launches work counts once, one of ours too, with the bytes of what it reads and writes: every tensor
once, whatever caches and kernels make of it. Views and allocations are no operators. Numbers are
exact and the same on every machine, so a test can hold them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode

import transnext_ops as ops
from transnext_models import create_model
from transnext_models.layers import calls, derived, fused, plain
from transnext_ops.operators.position_bias import bias

__all__ = ["OperatorCount", "count_forward", "count_training_step"]

_BATCH = 64
_DEVICE = "cpu"
_IN_FLOAT32 = ("cross_entropy", "layer_norm", "softplus")  # autocast's list for GPUs, not CPUs

# What allocates or renames memory and launches nothing, beside what PyTorch calls a view.
_NO_WORK = frozenset(
    ("alias", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty",
     "new_empty_strided", "set_", "_unsafe_view", "_reshape_alias", "device")
)  # fmt: skip
# These write their first argument without reading it.
_OVERWRITING = frozenset(
    ("copy_", "fill_", "zero_", "bernoulli_", "_foreach_copy_",
     "aggregated_attention_backward_into", "gelu_pool_backward_into")
)  # fmt: skip


class OperatorCount(TorchDispatchMode):
    """Counts the operators called within, on any tensors.

    Attributes
    ----------
    calls, moved : Counter
        Calls of each operator, and bytes that they read and write.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: collections.Counter[str] = collections.Counter()
        self.moved: collections.Counter[str] = collections.Counter()
        self._is_paused = False

    @property
    def operators(self) -> int:
        """All calls."""
        return self.calls.total()

    @property
    def gigabytes(self) -> float:
        """All bytes, in 1e9."""
        return self.moved.total() / 1e9

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Count nothing within."""
        self._is_paused = True
        try:
            yield
        finally:
            self._is_paused = False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operator and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        packet = func.overloadpacket.__name__
        if self._is_paused or func.is_view or packet in _NO_WORK or func.namespace == "profiler":
            return result
        name = f"{func.namespace}.{packet}"
        self.calls[name] += 1
        self.moved[name] += _bytes_moved(func, args, kwargs, result)
        return result


def _bytes_moved(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> int:
    read = written = 0
    overwrites = func.overloadpacket.__name__ in _OVERWRITING
    given: set[int] = set()
    for i, argument in enumerate(func._schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        tensors = [each for each in _pytree.tree_leaves(value) if isinstance(each, Tensor)]
        given.update(map(id, tensors))
        size = sum(map(_size, tensors))
        is_written = argument.alias_info is not None and argument.alias_info.is_write
        read += 0 if is_written and overwrites else size
        written += size if is_written else 0
    new = [
        each for each in _pytree.tree_leaves(result)
        if isinstance(each, Tensor) and id(each) not in given
    ]  # fmt: skip
    return read + written + sum(map(_size, new))


def _size(tensor: Tensor) -> int:
    """Bytes of the elements; those that a stride of 0 repeats count once."""
    elements = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        elements *= size if stride or not size else 1
    return elements * tensor.element_size()


@contextlib.contextmanager
def _counting(dtype: torch.dtype) -> Iterator[OperatorCount]:
    """Have models run as on a GPU, on fake tensors, under autocast to `dtype`.

    Fake tensors of a GPU have no backward pass where PyTorch finds none, so they are of the CPU;
    fakes take no path that is for CPUs alone, and what autocast does otherwise on a GPU is done
    here. The layers make way for whoever watches operators, and caches take no fakes; the count is
    of what runs with nobody watching, so they are told so. The position bias's axes are constants
    that a process computes once.
    """
    count = OperatorCount()
    axis = bias.bias_axis

    def uncounted_axis(*sizes: Any) -> Any:
        with count.paused():
            return axis(*sizes)

    with contextlib.ExitStack() as stack:
        for where, name, value in (
            (calls, "_observed", lambda: False),
            (plain, "_holds_plain_parameters", lambda layer: True),
            (fused, "plain_parameter", lambda module, name: True),
            (derived.Derived, "_state", lambda cache, weights: "as then" if cache.frozen else None),
            (bias, "bias_axis", uncounted_axis),
            *((F, name, _in_float32(getattr(F, name))) for name in _IN_FLOAT32),
        ):
            stack.enter_context(mock.patch.object(where, name, value))
        stack.enter_context(ops.use_backend("reference"))  # any that is one operator in a graph
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        stack.enter_context(torch.autocast(_DEVICE, dtype, enabled=dtype != torch.float32))
        yield count


def _in_float32(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return what autocast makes of a function of its list for float32 on a GPU."""

    @functools.wraps(function)
    def call(x: Tensor, *arguments: Any, **named: Any) -> Tensor:
        return function(x.float() if torch.is_autocast_enabled(_DEVICE) else x, *arguments, **named)

    return call


def _built(name: str, **options: Any) -> nn.Module:
    """Return a model without memory."""
    with torch.device("meta"):
        return create_model(name, **options)


def count_forward(
    name: str = "transnext_tiny",
    *,
    batch: int = _BATCH,
    size: int = 224,
    dtype: torch.dtype = torch.float16,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> OperatorCount:
    """Count a forward pass under autocast.

    Parameters
    ----------
    name : str
    batch, size : int
        Images, and their side.
    dtype : torch.dtype
        Autocast's; float32 is without it.
    prepare : callable
        From the model in evaluation mode to what is called.
    """
    built = _built(name)
    with _counting(dtype) as count, torch.no_grad():
        model = prepare(built.to_empty(device=_DEVICE).eval())
        images = torch.empty(batch, 3, size, size, device=_DEVICE)
        model(images)  # what later calls find in caches
        torch.clear_autocast_cache()
        with count:
            model(images)
    return count


def count_training_step(
    name: str = "transnext_tiny",
    *,
    batch: int = _BATCH,
    size: int = 224,
    dtype: torch.dtype = torch.float16,
    prepare: Callable[[nn.Module], nn.Module] = lambda model: model,
) -> OperatorCount:
    """Count a training step: forward, loss, backward, clipping and a fused AdamW's step.

    Parameters are those of `count_forward`; the model is in training mode.
    """
    built = _built(name, drop_path_rate=0.25)
    with _counting(dtype) as count:
        model = prepare(built.to_empty(device=_DEVICE).train())
        images = torch.empty(batch, 3, size, size, device=_DEVICE)
        labels = torch.empty(batch, dtype=torch.int64, device=_DEVICE)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

        def step() -> None:
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 5.0, foreach=True)
            optimizer.step()
            optimizer.zero_grad()

        for parameter in model.parameters():
            parameter.grad = torch.empty_like(parameter)
        optimizer.step()  # which makes its state
        optimizer.zero_grad()
        with count:
            step()
    return count


def main(arguments: list[str] | None = None) -> None:
    """Print a count."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", nargs="?", default="transnext_tiny")
    parser.add_argument("--training", action="store_true", help="a training step")
    parser.add_argument("--batch", type=int, default=_BATCH)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--dtype", default="float16", choices=("float16", "bfloat16", "float32"))
    parser.add_argument("--by-operator", action="store_true")
    given = parser.parse_args(arguments)
    counted = count_training_step if given.training else count_forward
    count = counted(
        given.model, batch=given.batch, size=given.size, dtype=getattr(torch, given.dtype)
    )
    print(f"{count.operators} operators, {count.gigabytes:.1f} GB")
    if given.by_operator:
        for name, calls_of in count.calls.most_common():
            print(f"{calls_of:6} {count.moved[name] / 1e9:8.2f} GB  {name}")


if __name__ == "__main__":
    main()
