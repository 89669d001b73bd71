"""The compiled library: vectorised, threaded CPU kernels, and CUDA kernels if built with them.

Every function is made from its operator's record (:mod:`transnext_ops.schema`): it allocates the
outputs and passes the tensors to ``transnext_ops._cpp`` through DLPack (:mod:`.dlpack`). The
library reads strided views in place, uses ``torch.get_num_threads()`` threads on the CPU and
torch's current stream on CUDA, and releases the GIL. Arguments are checked by then, and parameters
are in the compute type (float64 for float64, else float32).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from transnext_ops import schema
from transnext_ops.backends import compiled_library
from transnext_ops.backends.dlpack import check_memory, exchanged, readable
from transnext_ops.backends.matmul_precision import bfloat16_parts_allowed, tf32_allowed
from transnext_ops.backends.registry import ACTIVATION_DTYPES, OPERATORS, Call
from transnext_ops.schema import Operator, make_function

_import_failure: str | None = None
try:
    from transnext_ops import _cpp
    from transnext_ops.backends import launches
except ImportError as _error:
    _import_failure = str(_error)

CUDA_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_HEAD_DIM = 128  # of the CUDA kernels of attention


def unavailable() -> str | None:
    """Say why the compiled library cannot be used in this process, or None if it can."""
    return None if _import_failure is None else _why_missing()


@functools.cache
def _why_missing() -> str:
    assert _import_failure is not None
    return compiled_library.why_missing(_import_failure)


def warn_if_not_loadable() -> None:
    """Warn of a compiled library that was installed and cannot be loaded."""
    if _import_failure is not None:
        compiled_library.warn_if_not_loadable(_import_failure)


def cpu_level() -> str:
    """Say which instruction set the CPU kernels run with, and which are passed over, and why."""
    passed_over = getattr(_cpp, "passed_over_cpu_levels", list)  # older libraries do not tell
    level = _cpp.cpu_level()
    if splits_float32():
        level += " (fused blocks multiply float32 as three products of bfloat16)"
    return "; not ".join((level, *passed_over()))


def splits_float32() -> bool:
    """Whether float32 products of the fused blocks may be, and can be, three of bfloat16."""
    can = getattr(_cpp, "splits_float32", None)  # older libraries cannot
    return can is not None and bfloat16_parts_allowed() and can()


def has_tiles() -> bool:
    """Whether the CPU level in force has a tile unit, and this library its weight gradient."""
    return hasattr(_cpp, "weight_gradient") and _cpp.splits_float32()


def unsupported(call: Call) -> str | None:
    """Say why the compiled library cannot run `call`, or None if it can."""
    if call.dtype not in ACTIVATION_DTYPES:
        return f"it has no kernels for {call.dtype}"
    if not hasattr(_cpp, call.op):
        return f"the compiled library is older than this package and has no {call.op}; reinstall"
    if call.device.type == "cpu":
        return None
    if call.device.type != "cuda":
        return f"it runs on CPU and CUDA tensors, got {call.device.type}"
    if _cpp.cuda_architectures is None:
        return (
            "the compiled library was built without CUDA kernels; rebuild it with nvcc on PATH: "
            "pip install . --config-settings=cmake.define.TRANSNEXT_CUDA=ON (it says what it lacks)"
        )
    if (reason := cuda_unsupported(call)) is not None:
        return reason
    capability = _capability(call.device)
    if capability is None or _runs_on(_architectures_of(call, capability), capability):
        return None
    major, minor = capability
    return (
        f"its CUDA kernels are compiled for {_cpp.cuda_architectures}, which a GPU of compute "
        f"capability {major}.{minor} does not run; rebuild it: pip install . "
        f"--config-settings=cmake.define.CMAKE_CUDA_ARCHITECTURES={major}{minor}"
    )


def cuda_unsupported(call: Call) -> str | None:
    """Say why there is no CUDA kernel, compiled or for CuPy, that can run `call`."""
    if call.op not in OPERATORS:
        return f"it has no CUDA kernel for {call.op}; use backend 'torch'"
    if call.dtype not in CUDA_DTYPES:
        return f"it has no CUDA kernel of {call.op} for {call.dtype}"
    if call.op != "aggregated_attention" or call.head_dim is None or call.window_size is None:
        return None
    dtype, head_dim = str(call.dtype).removeprefix("torch."), call.head_dim
    # The capability is what an explanation is for where no GPU is.
    major, minor = _capability(call.device) or (8, 0)
    if call.dtype == torch.bfloat16 and major < 8:
        return (
            f"its CUDA kernels of attention with bfloat16 need compute capability 8.0 or newer, "
            f"this GPU has {major}.{minor}, without units for it; use float16, or backend 'torch'"
        )
    if head_dim > _MOST_HEAD_DIM:
        return (
            f"its CUDA kernels of attention take head dims up to {_MOST_HEAD_DIM}, got {head_dim}; "
            "use backend 'torch'"
        )

    def fits(window_size: int) -> bool:
        return _cpp.attention_fits(dtype, head_dim, window_size, 10 * major + minor)

    if fits(call.window_size):
        return None
    largest = next(size for size in itertools.count() if not fits(size + 1))
    return (
        f"its CUDA kernels of attention with head dim {head_dim}, window {call.window_size} and "
        f"{dtype} do not fit into the shared memory of compute capability {major}.{minor}, "
        f"{f'windows up to {largest} do' if largest > 0 else 'no window does'}; use backend 'torch'"
    )


def _architectures_of(call: Call, capability: tuple[int, int]) -> str:
    """Return the architectures that the kernels of a call are compiled for.

    Attention with bfloat16 and, on GPUs that have it, TF32, which a float32 call may ask for, has
    none for 7.x (cpp/cmake/CudaKernels.cmake): there later GPUs have no PTX of it to run.
    """
    architectures = str(_cpp.cuda_architectures)
    if call.op != "aggregated_attention" or call.dtype == torch.float16 or capability < (8, 0):
        return architectures
    return " ".join(each for each in architectures.split() if not each.startswith("7"))


def _capability(device: torch.device) -> tuple[int, int] | None:
    """Return a GPU's compute capability, None where there is none."""
    return torch.cuda.get_device_capability(device) if torch.cuda.is_available() else None


def _runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Return whether a GPU runs code for one of these architectures, as CMake spells them.

    Machine code (``80-real``) runs on the same major version from its minor version on, PTX
    (``80-virtual``) on all from there on; ``80`` is both. ``90a`` is for 9.0 alone, ``100f`` for
    its major version, and a word like ``native`` means this GPU.
    """
    major, minor = capability
    for architecture in architectures.split():
        match = re.fullmatch(r"(\d+)(\d)([a-z]?)(-real|-virtual)?", architecture)
        if match is None:
            return True
        made_for = int(match[1]), int(match[2])
        if match[3] == "a":
            runs = made_for == capability
        elif match[3] == "f" or match[4] == "-real":
            runs = made_for[0] == major and made_for[1] <= minor
        else:
            runs = made_for <= capability
        if runs:
            return True
    return False


class _CompiledKernels:
    """Runs launches with the CUDA kernels in the compiled library."""

    @staticmethod
    @functools.cache
    def architecture(device: torch.device) -> int:
        major, minor = torch.cuda.get_device_capability(device)
        return 10 * major + minor

    def run(self, op: str, launches: _cpp.Launches, tensors: Sequence[Tensor | None]) -> None:
        device = next(tensor for tensor in tensors if tensor is not None).device
        stream = torch.cuda.current_stream(device)
        _cpp.run_launches(op, launches, device.index, stream.cuda_stream)


_compiled = _CompiledKernels()


def _run(operator: Callable[..., None], tensors: Sequence[Tensor | None], *sizes: Any) -> None:
    """Run a compiled operator on tensors (inputs, then outputs; the first is there) and sizes."""
    first = tensors[0]
    if first is None:  # as a custom operator called directly lets through
        raise TypeError(f"{operator.__name__}: got None for its first tensor, needs a torch.Tensor")
    runner = launches.chosen_runner() or (_compiled if first.device.type == "cuda" else None)
    if runner is not None:
        launches.run(runner, operator, tensors, sizes)
        return
    threads = torch.get_num_threads()
    try:
        operator(*exchanged(tensors), *sizes, threads)
    except _cpp.UnreadableTensor:
        operator(*exchanged(readable(tensors)), *sizes, threads)


def _table_contiguous(pool_bias: Tensor | None, row_map: Tensor | None) -> Tensor | None:
    """Return the pooled bias as the kernels read it: a dense one as it is, a table contiguous."""
    if pool_bias is None or row_map is None or pool_bias.is_contiguous():
        return pool_bias
    check_memory(pool_bias)
    return pool_bias.contiguous()


def _tf32(first: Tensor) -> bool:
    # Only CUDA kernels have a choice, and reading the setting takes longer than a small kernel.
    return (first.is_cuda or launches.chosen_runner() is not None) and tf32_allowed()


# What the options of a compiled function are set to.
_OPTIONS = {
    "allow_tf32": "tf32({first})",
    "deterministic": "deterministic()",
}


def _forward(operator: Operator) -> Callable[..., Any]:
    """Return the function that runs an operator: it allocates the outputs and fills them."""
    outputs = [output.name for output in operator.outputs]
    allocations = [
        f"{name} = {expression}"
        for name, expression in zip(outputs, operator.allocations, strict=True)
    ]
    tensors = [*(tensor.name for tensor in operator.tensors), *outputs]
    return _compiled_function(
        operator.name, operator.Arguments._fields, allocations, tensors,
        [*operator.compiled_sizes, *(_OPTIONS[option] for option in operator.options)],
        ", ".join(outputs),
    )  # fmt: skip


def _backward(operator: Operator) -> Callable[..., Any]:
    """Return the function that runs a backward: its gradients, None for those not needed."""
    gradients = [f"grad_{i}" for i in range(len(operator.differentiable))]
    allocations = [
        f"{name} = {expression}"
        for name, expression in zip(gradients, operator.gradient_allocations, strict=True)
    ]
    result = f"[{', '.join(gradients)}]" if operator.masked else gradients[0]
    return _backward_function(operator, "", allocations, gradients, result)


def _backward_into(operator: Operator) -> Callable[..., Any]:
    """Return the function that runs a backward and writes gradients into given tensors.

    Of the others it returns those needed, and None in the places of the rest.
    """
    gradients = [f"grad_{i}" for i in range(len(operator.differentiable))]
    allocations = ["given = in_places(into, placed)"]
    allocations += [
        f"{name} = given[{i}] if placed[{i}] else {expression}"
        for i, (name, expression) in enumerate(
            zip(gradients, operator.gradient_allocations, strict=True)
        )
    ]
    returned = [f"None if placed[{i}] else {name}" for i, name in enumerate(gradients)]
    return _backward_function(
        operator, "_into", allocations, gradients, f"[{', '.join(returned)}]", "placed", "into"
    )


def _backward_function(
    operator: Operator,
    suffix: str,
    allocations: Sequence[str],
    gradients: Sequence[str],
    result: str,
    *more_parameters: str,
) -> Callable[..., Any]:
    tensors = [*(tensor.name for tensor in operator.backward_inputs), *gradients]
    options = [_OPTIONS[option] for option in operator.backward_options]
    return _compiled_function(
        f"{operator.name}_backward", [*operator.BackwardArguments._fields, *more_parameters],
        allocations, tensors, [*operator.compiled_sizes, *options], result, suffix,
    )  # fmt: skip


def _compiled_function(
    name: str,
    parameters: Sequence[str],
    allocations: Sequence[str],
    tensors: Sequence[str],
    sizes: Sequence[str],
    result: str,
    suffix: str = "",
) -> Callable[..., Any]:
    """Return the function that allocates, runs the compiled function `name`, and returns.

    `suffix` is of its own name.
    """
    table = ["pool_bias = table_contiguous(pool_bias, row_map)"] if "row_map" in parameters else []
    arguments = ", ".join([f"({', '.join(tensors)},)", *sizes]).format(first=tensors[0])
    return make_function(
        name + suffix,
        parameters,
        [*table, *allocations, f"run(compiled, {arguments})", f"return {result}"],
        __name__=__name__,
        compiled=None if _import_failure is not None else getattr(_cpp, name, None),
        deterministic=torch.are_deterministic_algorithms_enabled,
        in_places=schema.in_places,
        run=_run,
        table_contiguous=_table_contiguous,
        tf32=_tf32,
    )


aggregated_attention = _forward(schema.AGGREGATED_ATTENTION)
aggregated_attention_backward = _backward(schema.AGGREGATED_ATTENTION)
aggregated_attention_backward_into = _backward_into(schema.AGGREGATED_ATTENTION)
window_qk = _forward(schema.WINDOW_QK)
window_qk_backward = _backward(schema.WINDOW_QK)
window_av = _forward(schema.WINDOW_AV)
window_av_backward = _backward(schema.WINDOW_AV)
position_bias_table = _forward(schema.POSITION_BIAS_TABLE)
position_bias_table_backward = _backward(schema.POSITION_BIAS_TABLE)
conv_glu = _forward(schema.CONV_GLU)
conv_glu_backward = _backward(schema.CONV_GLU)
gelu_pool = _forward(schema.GELU_POOL)
gelu_pool_backward = _backward(schema.GELU_POOL)
gelu_pool_backward_into = _backward_into(schema.GELU_POOL)
add_layer_norm = _forward(schema.ADD_LAYER_NORM)
add_layer_norm_backward = _backward(schema.ADD_LAYER_NORM)
deformable_attention = _forward(schema.DEFORMABLE_ATTENTION)
deformable_attention_backward = _backward(schema.DEFORMABLE_ATTENTION)
attention_residual = _forward(schema.ATTENTION_RESIDUAL)
conv_glu_residual = _forward(schema.CONV_GLU_RESIDUAL)
patch_embed = _forward(schema.PATCH_EMBED)
token_norm = _forward(schema.TOKEN_NORM)
pooled_linear = _forward(schema.POOLED_LINEAR)


def fingerprint(tensors: Sequence[Tensor]) -> int:
    """Return a hash of the content and layout of tensors on the CPU."""
    return _cpp.fingerprint(exchanged(tensors), torch.get_num_threads())


def has_programs() -> bool:
    """Whether the library records programs of fused blocks, and this thread's calls run in it."""
    if _import_failure is not None or not hasattr(_cpp, "pooled_linear"):  # an older library
        return False
    return launches.chosen_runner() is None


def new_program() -> _cpp.Program:
    """Return a program of fused blocks without steps."""
    return _cpp.Program()


@contextmanager
def recording(program: _cpp.Program) -> Iterator[None]:
    """Let fused blocks that this thread calls become steps of a program instead of running."""
    outer = _cpp.record_program(program)
    try:
        yield
    finally:
        _cpp.record_program(outer)


def run_program(program: _cpp.Program, x: Tensor, outs: Sequence[Tensor | None]) -> None:
    """Run a program from `x` to `outs`, one or None for each of its results."""

    def run(x: Any, *outs_and_threads: Any) -> None:
        *outs, threads = outs_and_threads
        program.run(x, outs, threads)

    _run(run, (x, *outs))


def hold_the_same(dictionaries: tuple[dict[Any, Any], ...], expected: tuple[object, ...]) -> bool:
    """Whether dictionaries hold the objects that they held.

    `expected` is each of them, followed by its keys and values.
    """
    return _cpp.hold_the_same(dictionaries, expected)


def packed_weight_size(columns: int, depth: int, dtype: torch.dtype) -> int:
    """Return the elements of a weight ``[columns, depth]`` packed for products of `dtype`.

    ``torch.int32`` stands for float32 that is split into two bfloat16.
    """
    return _cpp.packed_weight_size(str(dtype).removeprefix("torch."), columns, depth)


def pack_weight(weight: Tensor, packed: Tensor) -> None:
    """Pack the weight ``[columns, depth]`` for products of the type of `packed`."""
    columns, depth = weight.shape
    _run(_cpp.pack_weight, (weight, packed), (columns, depth))


def has_linear() -> bool:
    """Whether this library has :func:`linear`, and weight gradients on vectors of every level."""
    return hasattr(_cpp, "linear")


def linear(
    x: Tensor, packed: Tensor, sizes: tuple[int, int], bias: Tensor | None, out: Tensor
) -> None:
    """Write ``x [M, depth]`` by a packed weight of these sizes, with `bias`, to `out`."""
    _run(_cpp.linear, (x, packed, bias, out), sizes)


def weight_gradient(d_out: Tensor, x: Tensor, d_weight: Tensor, d_bias: Tensor | None) -> None:
    """Write the gradients of a Linear's weight and bias, of tokens ``[M, columns]`` and ``x``."""
    _run(_cpp.weight_gradient, (d_out, x, d_weight, d_bias))
