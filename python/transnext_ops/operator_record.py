"""What a record of an operator holds, and all that follows from it.

From a record follow the schema of the custom operator and of its backward, their fake versions, the
mask of gradients, what autocast casts, the messages of the argument checks, the named arguments
that backends read, and the signature of the compiled function (``_cpp.pyi``). A new optional tensor
is one line in :mod:`transnext_ops.schema`; the rest is kernels.

A shape is a string of axes. An axis that is a name is bound by the first tensor that has it; these
follow from sizes: ``N`` the positions of `grid`, ``P`` those of `pool_grid`, ``L`` the cells of
`window_size`. ``*`` is an axis that the operator's own code checks.
"""

from __future__ import annotations

import enum
import functools
from collections import namedtuple
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transnext_ops.made_functions import compute_dtype, make_function

_SIZE_TYPES = {"grid": "SymInt[2]", "ints": "SymInt[]", "dtype": "ScalarType"}
_FROM_SIZES = {
    "N": "grid[0] * grid[1]",
    "P": "pool_grid[0] * pool_grid[1]",
    "L": "window_size * window_size",
}


class Role(enum.Enum):
    """What a tensor is to its operator."""

    ACTIVATION = "activation"  # in the call's storage type; autocast casts it
    PARAMETER = "parameter"  # in the compute type of the call
    INDEX_MAP = "index map"  # int32
    PACKED = "packed weight"  # opaque, laid out for the compiled GEMMs
    TOKENS = "tokens"  # of a fused block: any floating-point type, which autocast leaves alone


@dataclass(frozen=True)
class TensorArgument:
    """A tensor that an operator reads.

    Attributes
    ----------
    name : str
    shape : str
        Axes, ``"B N h d"``.
    role : Role
    optional : bool
        Whether None may stand for it.
    differentiable : bool
        Whether it has a gradient.
    in_backward : bool
        Whether the backward reads it.
    """

    name: str
    shape: str
    role: Role
    optional: bool = False
    differentiable: bool = True
    in_backward: bool = True

    @functools.cached_property
    def axes(self) -> tuple[str, ...]:
        """The axes of the shape."""
        return tuple(self.shape.split())

    @functools.cached_property
    def layout(self) -> str:
        """The shape as messages show it: ``[B, N, h, d]``."""
        return f"[{', '.join(self.axes)}]"

    def dtype(self, activation: torch.dtype) -> torch.dtype:
        """Return the dtype of a tensor of this role in a call on activations of this dtype."""
        return compute_dtype(activation) if self.role is Role.PARAMETER else activation

    @property
    def schema(self) -> str:
        """The argument in a torch schema."""
        return f"Tensor{'?' * self.optional} {self.name}"


@dataclass(frozen=True)
class Size:
    """A number that an operator takes after its tensors.

    Attributes
    ----------
    name : str
    kind : {"grid", "ints", "int", "bool", "float", "dtype"}
    axis : str or None
        The axis that says its value: then only the compiled function takes it.
    """

    name: str
    kind: str
    axis: str | None = None

    @property
    def schema(self) -> str:
        """The argument in a torch schema."""
        return f"{_SIZE_TYPES.get(self.kind, self.kind)} {self.name}"


@dataclass(frozen=True)
class Output:
    """A tensor that an operator returns, contiguous, with the dtype and device of input `like`.

    Attributes
    ----------
    name, shape, like : str
    saved : bool
        Whether the backward reads it.
    """

    name: str
    shape: str
    like: str
    saved: bool = False


@dataclass(frozen=True)
class Operator:
    """The record of an operator.

    Attributes
    ----------
    name : str
    tensors : tuple of TensorArgument
    sizes : tuple of Size
    outputs : tuple of Output
        The results first.
    results : int
        How many outputs are differentiable. The backward reads the gradient of the first one, and
        those of the others or None.
    has_backward : bool
        False for operators of inference alone.
    writes_into : bool
        Whether there is a second backward, which writes gradients where it is told. It needs all
        tensors in the backward.
    options, backward_options : tuple of str
        Settings that the compiled functions take after the sizes, as bools.
    """

    name: str
    tensors: tuple[TensorArgument, ...]
    sizes: tuple[Size, ...]
    outputs: tuple[Output, ...]
    results: int = 1
    has_backward: bool = True
    writes_into: bool = False
    options: tuple[str, ...] = ()
    backward_options: tuple[str, ...] = ()

    # What follows for the forward ----------------------------------------------------------------

    @functools.cached_property
    def by_name(self) -> Mapping[str, TensorArgument]:
        """The tensors by their names."""
        return {tensor.name: tensor for tensor in self.tensors}

    @functools.cached_property
    def torch_sizes(self) -> tuple[Size, ...]:
        """The sizes that the custom operator takes."""
        return tuple(size for size in self.sizes if size.axis is None)

    @functools.cached_property
    def Arguments(self) -> Any:
        """The class of named arguments: the tensors, then the custom operator's sizes."""
        return namedtuple(self.name, self._names(self.tensors))

    @functools.cached_property
    def schema(self) -> str:
        """The schema of the custom operator, whose last argument is a backend."""
        results = ", ".join("Tensor" for _ in self.outputs)
        return f"{self._declared(self.tensors)} -> " + (
            results if len(self.outputs) == 1 else f"({results})"
        )

    @functools.cached_property
    def autocast(self) -> tuple[bool, ...]:
        """For each tensor, whether autocast casts it."""
        return tuple(tensor.role is Role.ACTIVATION for tensor in self.tensors)

    @functools.cached_property
    def allocations(self) -> list[str]:
        """For each output, the expression of the arguments' names that allocates it."""
        return [self._allocation(output) for output in self.outputs]

    @functools.cached_property
    def allocate(self) -> Callable[..., tuple[Tensor, ...]]:
        """A function of the custom operator's arguments that allocates the outputs."""
        return make_function(
            "allocate", self.Arguments._fields, [f"return ({', '.join(self.allocations)},)"]
        )

    # What follows for the backward ---------------------------------------------------------------

    @functools.cached_property
    def differentiable(self) -> tuple[int, ...]:
        """The positions of the tensors that have gradients."""
        return tuple(i for i, tensor in enumerate(self.tensors) if tensor.differentiable)

    @functools.cached_property
    def in_backward(self) -> tuple[int, ...]:
        """The positions of the tensors that the backward reads."""
        return tuple(i for i, tensor in enumerate(self.tensors) if tensor.in_backward)

    @functools.cached_property
    def masked(self) -> bool:
        """Whether the backward takes a mask of gradients and returns a list of them."""
        return len(self.differentiable) > 1

    @functools.cached_property
    def saved_outputs(self) -> tuple[int, ...]:
        """The positions of the outputs that the backward reads."""
        return tuple(i for i, output in enumerate(self.outputs) if output.saved)

    @functools.cached_property
    def backward_inputs(self) -> tuple[TensorArgument, ...]:
        """The tensors that the backward reads: gradients, saved outputs, inputs."""
        gradients = (
            self._like_output(output, f"d_{output.name}", optional=i > 0)
            for i, output in enumerate(self.outputs[: self.results])
        )
        saved = (self.outputs[i] for i in self.saved_outputs)
        return (
            *gradients,
            *(self._like_output(output, output.name) for output in saved),
            *(self.tensors[i] for i in self.in_backward),
        )

    @functools.cached_property
    def BackwardArguments(self) -> Any:
        """The class of the backward's named arguments; the last is `needs` if it is masked."""
        names = self._names(self.backward_inputs)
        return namedtuple(f"{self.name}_backward", names + ["needs"] * self.masked)

    @functools.cached_property
    def backward_schema(self) -> str:
        """The schema of the backward's custom operator."""
        mask = (f"bool[{len(self.differentiable)}] needs",) if self.masked else ()
        result = "Tensor[]" if self.masked else "Tensor"
        return f"{self._declared(self.backward_inputs, *mask)} -> {result}"

    @functools.cached_property
    def backward_into_schema(self) -> str:
        """The schema of the backward that writes gradients into given tensors.

        `placed` says which gradients these are; `needs` is of the others, which it returns.
        """
        count = len(self.differentiable)
        mask = (f"bool[{count}] needs",) if self.masked else ()
        places = (f"bool[{count}] placed", "Tensor(a!)[] into")
        return f"{self._declared(self.backward_inputs, *mask, *places)} -> Tensor[]"

    @functools.cached_property
    def gradient_allocations(self) -> list[str]:
        """For each gradient, the expression that allocates it, or None if it is not needed."""
        return [
            self._gradient(self.tensors[position], i)
            for i, position in enumerate(self.differentiable)
        ]

    @functools.cached_property
    def allocate_gradients(self) -> Callable[..., list[Tensor | None]]:
        """A function of the backward's arguments that allocates the gradients needed."""
        body = [f"return [{', '.join(self.gradient_allocations)}]"]
        return make_function("allocate_gradients", self.BackwardArguments._fields, body)

    # What follows for the compiled library -------------------------------------------------------

    @functools.cached_property
    def compiled_sizes(self) -> list[str]:
        """The expressions of the compiled function's sizes."""
        return [self._compiled_size(size) for size in self.sizes]

    @functools.cached_property
    def compiled_signature(self) -> list[tuple[str, str]]:
        """Names and kinds of what the compiled function takes."""
        return self._compiled(
            [*self.tensors, *self.outputs], [*self.options], optional=self._optional
        )

    @functools.cached_property
    def compiled_backward_signature(self) -> list[tuple[str, str]]:
        """Names and kinds of what the compiled backward takes."""
        gradients = [Output(f"d_{self.tensors[i].name}", "", "") for i in self.differentiable]
        optional = {t.name for t in self.backward_inputs if t.optional}
        optional |= {g.name for g in gradients} if self.masked else set()
        return self._compiled(
            [*self.backward_inputs, *gradients], [*self.backward_options], optional=optional
        )

    # ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def _optional(self) -> set[str]:
        return {tensor.name for tensor in self.tensors if tensor.optional}

    def _compiled(
        self, tensors: Sequence[Any], options: Sequence[str], *, optional: set[str]
    ) -> list[tuple[str, str]]:
        return [
            *((t.name, "optional tensor" if t.name in optional else "tensor") for t in tensors),
            *((size.name, size.kind) for size in self.sizes),
            *((option, "bool") for option in options),
            ("threads", "int"),
        ]

    def _declared(self, tensors: Sequence[TensorArgument], *rest: str) -> str:
        declared = [tensor.schema for tensor in tensors]
        declared += [size.schema for size in self.torch_sizes]
        return f"({', '.join((*declared, *rest, 'str backend'))})"

    def _names(self, tensors: Sequence[TensorArgument]) -> list[str]:
        return [tensor.name for tensor in tensors] + [size.name for size in self.torch_sizes]

    def _axis(self, name: str, gradients: tuple[TensorArgument, ...] = ()) -> str:
        """Return the expression of the arguments' names that gives the length of an axis.

        The backward also has `gradients`.
        """
        if name.isdigit():
            return name
        for tensor in (*self.tensors, *gradients):
            if name in tensor.axes and not tensor.optional and tensor.in_backward:
                return f"{tensor.name}.shape[{tensor.axes.index(name)}]"
        if name in _FROM_SIZES:
            return _FROM_SIZES[name]
        raise ValueError(f"{self.name}: got the axis {name!r}, needs one that a tensor has")

    def _like_output(self, output: Output, name: str, optional: bool = False) -> TensorArgument:
        return TensorArgument(name, output.shape, self.by_name[output.like].role, optional=optional)

    def _new(
        self,
        like: str,
        axes: Sequence[str],
        dtype: str = "",
        gradients: tuple[TensorArgument, ...] = (),
    ) -> str:
        shape = ", ".join(self._axis(axis, gradients) for axis in axes)
        return f"{like}.new_empty(({shape},){dtype})"

    def _allocation(self, output: Output) -> str:
        if self.by_name[output.like].shape == output.shape:
            return f"empty_like({output.like})"
        return self._new(output.like, output.shape.split())

    def _gradient(self, tensor: TensorArgument, i: int) -> str:
        if not tensor.in_backward:
            like = self.backward_inputs[0].name
            of_role = tensor.role is Role.PARAMETER
            dtype = f", dtype=compute_dtype({like}.dtype)" if of_role else ""
            allocation = self._new(like, tensor.axes, dtype, self.backward_inputs[:1])
        else:
            allocation = f"empty_like({tensor.name})"
        if not self.masked:
            return allocation
        there = f" and {tensor.name} is not None" * (tensor.optional and tensor.in_backward)
        return f"{allocation} if needs[{i}]{there} else None"

    def _compiled_size(self, size: Size) -> str:
        if size.axis is not None:
            return self._axis(size.axis)
        return f"dtype_name({size.name})" if size.kind == "dtype" else size.name


def in_places(into: Sequence[Tensor], placed: Sequence[bool]) -> list[Tensor | None]:
    """Return the given tensor of each gradient that is `placed`, None for the others."""
    if len(into) != sum(placed):
        raise ValueError(
            f"into: got {len(into)} tensors, needs one for each of {sum(placed)} placed gradients"
        )
    given = iter(into)
    return [next(given) if there else None for there in placed]
