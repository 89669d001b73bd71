"""The custom operators ``torch.ops.transnext.*``, made of the records in :mod:`.schema`.

Every operator takes the name of a kernel backend as its last argument and calls that backend's
module, on any device. What a graph holds is therefore one node per operator, whichever backend
runs it. The backward is an operator too (``<name>_backward``): it gets a mask of the gradients
needed and returns only those, in argument order. Some have a second backward,
``<name>_backward_into``, which writes gradients where :mod:`.packed_gradients` has room for them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import torch

from transnext_ops.backends import registry
from transnext_ops.dispatch import eager, packed_gradients
from transnext_ops.dispatch.autocast import autocast_activations
from transnext_ops.schema import FUSED_BLOCKS, OPERATORS, Operator

__all__ = ["PATHS", "define"]

Kernel = Callable[[str, str], Callable[..., Any]]


def define(library: torch.library.Library, operator: Operator, kernel: Kernel) -> eager.Paths:
    """Define a record's operators in a library: schema, fake, autograd and autocast.

    Parameters
    ----------
    library : torch.library.Library
        The namespace; what is defined lives as long as it does.
    operator : Operator
    kernel : callable
        (name of operator or backward, name of backend) to the backend's function, which takes the
        arguments without the backend.

    Returns
    -------
    eager.Paths
        How to call the operator.
    """
    paths = _define_one(library, operator.name, operator.schema, kernel)
    _register_fake(library, operator.name, lambda *arguments: _fake(operator, arguments))
    if operator.has_backward:
        backward = operator.name + "_backward"
        backward_paths = _define_one(library, backward, operator.backward_schema, kernel)
        backward_paths.is_backward = True
        _register_fake(library, backward, lambda *arguments: _fake_backward(operator, arguments))
        _register_autograd(library, backward, _remember_backend, _refuse_double_backward)
        into_paths = _define_into(library, operator, kernel) if operator.writes_into else None
        formula = _autograd_formula(operator, backward_paths, into_paths)
        _register_autograd(library, operator.name, *formula)
        paths.function = _eager_function(operator.name, paths, *formula)
    else:
        _register_autograd(library, operator.name, _remember_backend, _refuse_backward)
    if any(operator.autocast):
        for device_type, key in (("cpu", "AutocastCPU"), ("cuda", "AutocastCUDA")):
            library.impl(operator.name, _autocast(operator, paths.packet, device_type), key)
    return paths


def _define_into(library: torch.library.Library, operator: Operator, kernel: Kernel) -> eager.Paths:
    name = operator.name + "_backward_into"
    paths = _define_one(library, name, operator.backward_into_schema, kernel)
    paths.is_backward = True

    def fake(*arguments: Any) -> Any:
        *inputs, placed, _, _ = arguments
        if not operator.masked and placed[0]:
            return []
        gradients = operator.allocate_gradients(*inputs)
        return [gradient for gradient in gradients if gradient is not None]

    _register_fake(library, name, fake)
    return paths


def _define_one(
    library: torch.library.Library, name: str, schema: str, kernel: Kernel
) -> eager.Paths:
    def run(*arguments: Any) -> Any:
        result = kernel(name, arguments[-1])(*arguments[:-1])
        if isinstance(result, list):  # gradients: None stands for those not needed
            return [gradient for gradient in result if gradient is not None]
        return result

    library.define(name + schema, tags=(torch.Tag.pt2_compliant_tag,))
    library.impl(name, run, "CompositeExplicitAutograd")
    packet = getattr(getattr(torch.ops, library.ns), name)
    return eager.Paths(packet, functools.partial(kernel, name))


# Fake versions: outputs are allocated, and nothing else -----------------------------------------


def _register_fake(library: torch.library.Library, name: str, function: Callable[..., Any]) -> None:
    torch.library.register_fake(f"{library.ns}::{name}", function, lib=library)


def _fake(operator: Operator, arguments: tuple[Any, ...]) -> Any:
    outputs = operator.allocate(*arguments[:-1])
    return outputs if len(outputs) > 1 else outputs[0]


def _fake_backward(operator: Operator, arguments: tuple[Any, ...]) -> Any:
    gradients = operator.allocate_gradients(*arguments[:-1])
    if not operator.masked:
        return gradients[0]
    return [gradient for gradient in gradients if gradient is not None]


# Autograd ---------------------------------------------------------------------------------------


def _register_autograd(
    library: torch.library.Library,
    name: str,
    setup_context: Callable[..., None],
    backward: Callable[..., Any],
) -> None:
    torch.library.register_autograd(
        f"{library.ns}::{name}", backward, setup_context=setup_context, lib=library
    )


def _autograd_formula(
    operator: Operator, paths: eager.Paths, into_paths: eager.Paths | None
) -> tuple[Callable[..., None], Callable[..., tuple[Any, ...]]]:
    """Return ``setup_context`` and ``backward`` as ``register_autograd`` takes them.

    `into_paths` are those of the backward that writes into given tensors, if there is one.
    """
    count = len(operator.tensors)
    in_backward, differentiable = operator.in_backward, operator.differentiable
    saved_outputs, masked, results = operator.saved_outputs, operator.masked, operator.results
    several, reads_all = len(operator.outputs) > 1, len(in_backward) == count
    absent = (None,) * (count + len(operator.torch_sizes) + 1)
    # Of the gradients and a None behind them, what belongs to each argument.
    order = [differentiable.index(i) if i in differentiable else -1 for i in range(len(absent))]
    in_order = itemgetter(*order)

    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        if several:
            ctx.mark_non_differentiable(*output[results:])
            ctx.set_materialize_grads(False)
        ctx.sizes, ctx.backend = inputs[count:-1], inputs[-1]
        saved = inputs[:count] if reads_all else [inputs[i] for i in in_backward]
        if saved_outputs:
            outputs = output if several else (output,)
            saved = (*(outputs[i] for i in saved_outputs), *saved)
        if results > 1:
            ctx.result = output[0].dtype, output[0].device, output[0].shape
        ctx.save_for_backward(*saved)

    def written_into_rooms(
        ctx: Any,
        into_paths: eager.Paths,
        d_out: tuple[Any, ...],
        saved: tuple[Any, ...],
        needs: list[bool],
    ) -> list[Any] | None:
        """Return the gradients, some of them where their consumers want them; None if none are."""
        rooms = packed_gradients.rooms(ctx, saved[len(saved_outputs) :], needs)
        into = [room for room in rooms if room is not None]
        if not into:
            return None
        placed = [room is not None for room in rooms]
        rest = [needed and not there for needed, there in zip(needs, placed, strict=True)]
        mask = (rest,) if masked else ()
        gradients = eager.call(
            into_paths, *d_out, *saved, *ctx.sizes, *mask, placed, into, ctx.backend
        )
        others = eager.spread(gradients, rest)
        return [other if room is None else room for room, other in zip(rooms, others, strict=True)]

    def backward(ctx: Any, *gradients_of: Any) -> tuple[Any, ...]:
        d_out = gradients_of[:results]
        if all(gradient is None for gradient in d_out):
            return absent
        if d_out[0] is None:  # another result alone was used
            dtype, device, shape = ctx.result
            d_out = (torch.zeros(shape, dtype=dtype, device=device), *d_out[1:])
        needed = ctx.needs_input_grad
        needs = [needed[i] for i in differentiable]
        saved = ctx.saved_tensors  # once: gradient checkpointing gives them a single time
        if into_paths is not None and not torch.is_grad_enabled():
            written = written_into_rooms(ctx, into_paths, d_out, saved, needs)
            if written is not None:
                return in_order((*written, None))
        if not masked:
            gradient = eager.call(paths, *d_out, *saved, *ctx.sizes, ctx.backend)
            return in_order((gradient, None))
        gradients = eager.call(paths, *d_out, *saved, *ctx.sizes, needs, ctx.backend)
        return in_order((*eager.spread(gradients, needs), None))

    return setup_context, backward


def _eager_function(
    name: str,
    paths: eager.Paths,
    setup_context: Callable[..., None],
    backward: Callable[..., tuple[Any, ...]],
) -> type[torch.autograd.Function]:
    """Return the autograd formula for calls past the dispatcher."""
    kernel = paths.kernel

    def forward(ctx: Any, *inputs: Any) -> Any:
        output = kernel(inputs[-1])(*inputs[:-1])
        setup_context(ctx, inputs, output)
        return output

    title = "".join(word.capitalize() for word in name.split("_"))
    members = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    return type(title, (torch.autograd.Function,), members)


def _remember_backend(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.backend = inputs[-1]


def _refuse_double_backward(ctx: Any, *gradients: Any) -> Any:
    raise NotImplementedError(
        f"transnext_ops backend {ctx.backend!r} has no second derivatives; use backend 'torch', "
        "which has those of all operators but deformable_attention"
    )


def _refuse_backward(ctx: Any, *gradients: Any) -> Any:
    raise NotImplementedError(
        "transnext_ops.fused_blocks are for inference and have no gradient; compose the block from "
        "the operators to train, or call it under torch.no_grad()"
    )


# Autocast: activations in its type, parameters as they are --------------------------------------


def _autocast(operator: Operator, packet: Any, device_type: str) -> Callable[..., Any]:
    positions = [i for i, casts in enumerate(operator.autocast) if casts]

    def cast_and_call(*arguments: Any) -> Any:
        cast = list(arguments)
        activations = autocast_activations(*(arguments[i] for i in positions))
        for position, activation in zip(positions, activations, strict=True):
            cast[position] = activation
        with torch.autocast(device_type, enabled=False):
            return packet(*cast)

    return cast_and_call


_library = torch.library.Library("transnext", "DEF")

PATHS = {
    name: define(_library, operator, registry.kernel)
    for name, operator in {**OPERATORS, **FUSED_BLOCKS}.items()
}
