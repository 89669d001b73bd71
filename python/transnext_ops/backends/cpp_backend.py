"""The compiled library: vectorised, threaded CPU kernels, and CUDA kernels if built with them.

Every function allocates its outputs here and passes tensors to ``transnext_ops._cpp`` as DLPack has
it (:mod:`.dlpack`), which reads strided views in place, follows ``torch.get_num_threads()`` on
the CPU and torch's current stream on CUDA, and releases the GIL. Arguments are those of the
operators' backend functions: checked, parameters already in the compute type (float64 for float64,
else float32).
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from transnext_ops.backends import compiled_library
from transnext_ops.backends.dlpack import check_memory, exchanged, readable
from transnext_ops.backends.matmul_precision import tf32_allowed
from transnext_ops.backends.registry import ACTIVATION_DTYPES, Call

_import_failure: str | None = None
try:
    from transnext_ops import _cpp
    from transnext_ops.backends import launches
except ImportError as _error:
    _import_failure = str(_error)

CUDA_OPERATORS = (
    "aggregated_attention",
    "window_qk",
    "window_av",
    "position_bias_table",
    "conv_glu",
    "gelu_pool",
)
CUDA_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_MOST_HEAD_DIM = 128  # of the CUDA kernels of attention

Grid = Sequence[int]


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
    if call.op not in CUDA_OPERATORS:
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
    its major version, and words like ``native`` are taken to mean this GPU.
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
        operator(*exchanged(tensors), *sizes, threads, 0)
    except _cpp.UnreadableTensor:
        operator(*exchanged(readable(tensors)), *sizes, threads, 0)


def empty_like(tensor: Tensor) -> Tensor:
    """Allocate a contiguous tensor of the same kind: in half the time of ``new_empty``."""
    return torch.empty_like(tensor, memory_format=torch.contiguous_format)


def _empty_gradients(inputs: Sequence[Tensor | None], needs: Sequence[bool]) -> list[Tensor | None]:
    """Allocate a contiguous gradient for every input that is there and needs one."""
    return [
        empty_like(tensor) if needed and tensor is not None else None
        for tensor, needed in zip(inputs, needs, strict=True)
    ]


def _table_contiguous(pool_bias: Tensor | None, row_map: Tensor | None) -> Tensor | None:
    """Return the pooled bias as the kernels take it: a dense one as it is, a table contiguous."""
    if pool_bias is None or row_map is None or pool_bias.is_contiguous():
        return pool_bias
    check_memory(pool_bias)
    return pool_bias.contiguous()


def aggregated_attention(
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    k_pool: Tensor,
    v_pool: Tensor,
    scale: Tensor,
    query_embedding: Tensor | None,
    local_bias: Tensor | None,
    pool_bias: Tensor | None,
    row_map: Tensor | None,
    col_map: Tensor | None,
    col_weights: Tensor | None,
    tokens: Tensor | None,
    token_bias: Tensor | None,
    grid: Grid,
    pool_grid: Grid,
    window_size: int,
) -> tuple[Tensor, Tensor]:
    """Return aggregated attention ``[B, N, h, d]`` and its log-sum-exp ``[B, N, h]``."""
    out = empty_like(q)
    log_sum_exp = scale.new_empty(q.shape[:3])
    tensors = (
        q, k, v, k_pool, v_pool, scale, query_embedding, local_bias,
        _table_contiguous(pool_bias, row_map), row_map, col_map, col_weights, tokens, token_bias,
        out, log_sum_exp,
    )  # fmt: skip
    # Only CUDA kernels have a choice, and looking at the setting takes longer than a small kernel.
    on_cuda = q.is_cuda or launches.chosen_runner() is not None
    tf32 = on_cuda and tf32_allowed()
    _run(_cpp.aggregated_attention, tensors, grid, pool_grid, window_size, tf32)
    return out, log_sum_exp


def aggregated_attention_backward(
    d_out: Tensor,
    out: Tensor,
    log_sum_exp: Tensor,
    q: Tensor,
    k: Tensor | None,
    v: Tensor | None,
    k_pool: Tensor,
    v_pool: Tensor,
    scale: Tensor,
    query_embedding: Tensor | None,
    local_bias: Tensor | None,
    pool_bias: Tensor | None,
    row_map: Tensor | None,
    col_map: Tensor | None,
    col_weights: Tensor | None,
    tokens: Tensor | None,
    token_bias: Tensor | None,
    grid: Grid,
    pool_grid: Grid,
    window_size: int,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients asked for by `needs`, of q, k, v, k_pool, v_pool, scale,
    query_embedding, local_bias, pool_bias, tokens and token_bias, None for the others."""
    pool_bias = _table_contiguous(pool_bias, row_map)
    differentiable = (
        q, k, v, k_pool, v_pool, scale, query_embedding, local_bias, pool_bias, tokens, token_bias,
    )  # fmt: skip
    gradients = _empty_gradients(differentiable, needs)
    tensors = (
        d_out, out, log_sum_exp, *differentiable[:9], row_map, col_map, col_weights, tokens,
        token_bias, *gradients,
    )  # fmt: skip
    deterministic = torch.are_deterministic_algorithms_enabled()
    sizes = (grid, pool_grid, window_size, deterministic)
    _run(_cpp.aggregated_attention_backward, tensors, *sizes)
    return gradients


def window_qk(q: Tensor, k: Tensor, bias: Tensor | None, grid: Grid, window_size: int) -> Tensor:
    """Return the window logits ``[B, h, N, L]``, -inf outside the image."""
    attn = q.new_empty((*q.shape[:3], window_size * window_size))
    _run(_cpp.window_qk, (q, k, bias, attn), grid, window_size)
    return attn


def window_qk_backward(
    d_attn: Tensor, q: Tensor, k: Tensor, grid: Grid, window_size: int, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of :func:`window_qk` for q, k and bias."""
    gradients = _empty_gradients((q, k), needs[:2])
    compute = torch.float64 if q.dtype == torch.float64 else torch.float32
    cells = window_size * window_size
    gradients.append(q.new_empty((q.shape[1], cells), dtype=compute) if needs[2] else None)
    _run(_cpp.window_qk_backward, (d_attn, q, k, *gradients), grid, window_size)
    return gradients


def window_av(attn: Tensor, v: Tensor, grid: Grid, window_size: int) -> Tensor:
    """Return the window's weighted sum of values ``[B, h, N, d]``."""
    out = empty_like(v)
    _run(_cpp.window_av, (attn, v, out), grid, window_size)
    return out


def window_av_backward(
    d_out: Tensor, attn: Tensor, v: Tensor, grid: Grid, window_size: int, needs: Sequence[bool]
) -> list[Tensor | None]:
    """Return the gradients of :func:`window_av` for attn and v."""
    gradients = _empty_gradients((attn, v), needs)
    _run(_cpp.window_av_backward, (d_out, attn, v, *gradients), grid, window_size)
    return gradients


def position_bias_table(
    row_coords: Tensor,
    col_coords: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
) -> Tensor:
    """Return the position-bias table ``[h, R, S]``."""
    table = fc1_weight.new_empty((fc2_weight.shape[0], row_coords.shape[0], col_coords.shape[0]))
    inputs = (row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight, fc2_bias)
    _run(_cpp.position_bias_table, (*inputs, table))
    return table


def position_bias_table_backward(
    d_table: Tensor,
    row_coords: Tensor,
    col_coords: Tensor,
    fc1_weight: Tensor,
    fc1_bias: Tensor,
    fc2_weight: Tensor,
    fc2_bias: Tensor,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of :func:`position_bias_table` for the MLP's four parameters."""
    gradients = _empty_gradients((fc1_weight, fc1_bias, fc2_weight, fc2_bias), needs)
    inputs = (d_table, row_coords, col_coords, fc1_weight, fc1_bias, fc2_weight)
    _run(_cpp.position_bias_table_backward, (*inputs, *gradients))
    return gradients


def conv_glu(x: Tensor, weight: Tensor, bias: Tensor | None, grid: Grid) -> Tensor:
    """Return GELU(depthwise convolution of x's first half) * second half, ``[B, N, hidden]``."""
    out = x.new_empty((x.shape[0], x.shape[1], weight.shape[0]))
    _run(_cpp.conv_glu, (x, weight, bias, out), grid)
    return out


def conv_glu_backward(
    d_out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    grid: Grid,
    needs: Sequence[bool],
) -> list[Tensor | None]:
    """Return the gradients of :func:`conv_glu` for x, weight and bias."""
    gradients = _empty_gradients((x, weight, bias), needs)
    _run(_cpp.conv_glu_backward, (d_out, x, weight, bias, *gradients), grid)
    return gradients


def gelu_pool(x: Tensor, grid: Grid, pool_grid: Grid) -> Tensor:
    """Return the adaptive average pooling of GELU(x), ``[B, P, C]``."""
    out = x.new_empty((x.shape[0], pool_grid[0] * pool_grid[1], x.shape[2]))
    _run(_cpp.gelu_pool, (x, out), grid, pool_grid)
    return out


def gelu_pool_backward(d_out: Tensor, x: Tensor, grid: Grid, pool_grid: Grid) -> Tensor:
    """Return the gradient of :func:`gelu_pool` with respect to x, ``[B, N, C]``."""
    d_x = empty_like(x)
    _run(_cpp.gelu_pool_backward, (d_out, x, d_x), grid, pool_grid)
    return d_x


def fingerprint(tensors: Sequence[Tensor]) -> int:
    """Return a hash of the content and layout of tensors on the CPU."""
    return _cpp.fingerprint(exchanged(tensors), torch.get_num_threads())


def pack_weight(weight: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the weight ``[columns, depth]`` packed for products of `dtype`."""
    columns, depth = weight.shape
    name = str(dtype).removeprefix("torch.")
    packed = weight.new_empty(_cpp.packed_weight_size(name, columns, depth), dtype=dtype)
    _run(_cpp.pack_weight, (weight, packed), (columns, depth))
    return packed


def attention_branch(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    projections: Tensor,
    projections_bias: Tensor | None,
    pool_norm_weight: Tensor | None,
    pool_norm_bias: Tensor | None,
    pool_projections: Tensor | None,
    scale: Tensor,
    query_embedding: Tensor | None,
    local_bias: Tensor | None,
    pool_bias: Tensor | None,
    row_map: Tensor | None,
    col_map: Tensor | None,
    col_weights: Tensor | None,
    tokens: Tensor | None,
    token_bias: Tensor | None,
    out_projection: Tensor,
    out_bias: Tensor | None,
    grid: Grid,
    pool_grid: Grid,
    window_size: int,
    heads: int,
    epsilon: float,
    pool_epsilon: float,
    features: torch.dtype,
) -> Tensor:
    """Return ``x + proj(attention(LayerNorm(x)))``, ``[B, N, C]``."""
    out = empty_like(x)
    tensors = (
        x, norm_weight, norm_bias, projections, projections_bias, pool_norm_weight, pool_norm_bias,
        pool_projections, scale, query_embedding, local_bias, _table_contiguous(pool_bias, row_map),
        row_map, col_map, col_weights, tokens, token_bias, out_projection, out_bias, out,
    )  # fmt: skip
    sizes = (grid, pool_grid, window_size, heads, x.shape[2], epsilon, pool_epsilon)
    _run(_cpp.attention_branch, tensors, *sizes, str(features).removeprefix("torch."))
    return out


def convolutional_glu(
    x: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    value_weight: Tensor,
    gate_weight: Tensor,
    fc1_bias: Tensor | None,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    fc2_weight: Tensor,
    fc2_bias: Tensor | None,
    grid: Grid,
    epsilon: float,
) -> Tensor:
    """Return ``x + fc2(GELU(dwconv(a)) * g)``, ``[B, N, C]``."""
    out = empty_like(x)
    tensors = (
        x, norm_weight, norm_bias, value_weight, gate_weight, fc1_bias, conv_weight, conv_bias,
        fc2_weight, fc2_bias, out,
    )  # fmt: skip
    _run(_cpp.convolutional_glu, tensors, grid, x.shape[2], conv_weight.shape[0], epsilon)
    return out


def patch_embed(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    norm_weight: Tensor,
    norm_bias: Tensor,
    grid: Grid,
    columns: int,
    kernel: int,
    stride: int,
    channels_last: bool,
    epsilon: float,
) -> Tensor:
    """Return ``LayerNorm(convolution(x))`` as tokens, ``[B, N, columns]``."""
    out = x.new_empty((x.shape[0], grid[0] * grid[1], columns))
    tensors = (x, weight, bias, norm_weight, norm_bias, out)
    sizes = (grid, x.shape[1], columns, kernel, stride, channels_last, epsilon)
    _run(_cpp.patch_embed, tensors, *sizes)
    return out
