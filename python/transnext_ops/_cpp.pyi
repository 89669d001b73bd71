"""The compiled operators: what ``backends/cpp_backend.py`` calls.

``python -m tools.cpp_stub`` writes the functions of operators, from the records in ``schema.py``.

An operator reads its input tensors, fills its output tensors and returns nothing. It takes a tensor
as it is where the tensor's type has DLPack's C interface, else as a DLPack capsule, which stays its
owner's. ``None`` stands for an absent input or a gradient that is not needed. On CPU tensors an
operator runs at once, on `threads` threads; for CUDA tensors see :func:`record_launches` and
:func:`run_launches`. Wrong shapes, dtypes or devices raise ValueError, what is no tensor TypeError,
a failed CUDA launch RuntimeError, a failed allocation MemoryError.
"""

from collections.abc import Callable, Sequence
from typing import Any

__version__: str
cuda_architectures: str | None  # what the CUDA kernels were compiled for; None without them

class UnreadableTensor(ValueError):
    """A tensor has to be copied to be read (``backends/dlpack.py``)."""

def cpu_level() -> str: ...
def available_cpu_levels() -> list[str]: ...
def passed_over_cpu_levels() -> list[str]: ...
def splits_float32() -> bool: ...
def set_cpu_level(name: str | None) -> None: ...

class Launches:
    """What an operator runs on a GPU."""

    @property
    def source(self) -> str: ...  # header of the kernels, below the folder of cuda/
    @property
    def workspace(self) -> int: ...  # floats of scratch memory
    @property
    def kernels(self) -> list[_Kernel]: ...
    def place_workspace(self, address: int) -> None: ...

# name, grid, block, dynamic shared bytes, the one argument
_Kernel = tuple[str, tuple[int, int, int], tuple[int, int, int], int, bytes]

def record_launches(
    function: Callable[..., None], arguments: tuple[Any, ...], architecture: int
) -> Launches: ...
def attention_fits(dtype: str, head_dim: int, window_size: int, architecture: int) -> bool: ...
def run_launches(op: str, launches: Launches, device: int, stream: int) -> None: ...

_Tensor = Any  # a tensor or a DLPack capsule

def fingerprint(tensors: Sequence[_Tensor], threads: int = 1) -> int: ...
def packed_weight_size(dtype: str, columns: int, depth: int, /) -> int: ...
def pack_weight(
    weight: _Tensor, packed: _Tensor, sizes: Sequence[int], threads: int = 1
) -> None: ...
def linear(
    x: _Tensor,
    weight: _Tensor,
    bias: _Tensor | None,
    out: _Tensor,
    sizes: Sequence[int],
    threads: int = 1,
) -> None: ...
def weight_gradient(
    d_out: _Tensor,
    x: _Tensor,
    d_weight: _Tensor,
    d_bias: _Tensor | None,
    threads: int = 1,
) -> None: ...

class Program:
    """Fused blocks one after the other."""

    def __init__(self) -> None: ...
    def __len__(self) -> int: ...
    def run(self, x: _Tensor, outs: Sequence[_Tensor | None], threads: int) -> None: ...
    def result_shapes(self) -> list[tuple[int, int]]: ...

# Sets what this thread records, and returns what it recorded.
def record_program(program: Program | None) -> Program | None: ...
def hold_the_same(
    dictionaries: tuple[dict[Any, Any], ...], expected: tuple[object, ...]
) -> bool: ...

# Written from the records; what is above is written by hand.
def aggregated_attention(
    q: _Tensor,
    k: _Tensor | None,
    v: _Tensor | None,
    k_pool: _Tensor,
    v_pool: _Tensor,
    scale: _Tensor,
    query_embedding: _Tensor | None,
    local_bias: _Tensor | None,
    pool_bias: _Tensor | None,
    row_map: _Tensor | None,
    col_map: _Tensor | None,
    col_weights: _Tensor | None,
    tokens: _Tensor | None,
    token_bias: _Tensor | None,
    out: _Tensor,
    log_sum_exp: _Tensor,
    grid: Sequence[int],
    pool_grid: Sequence[int],
    window_size: int,
    allow_tf32: bool,
    threads: int,
    /,
) -> None: ...
def aggregated_attention_backward(
    d_out: _Tensor,
    out: _Tensor,
    log_sum_exp: _Tensor,
    q: _Tensor,
    k: _Tensor | None,
    v: _Tensor | None,
    k_pool: _Tensor,
    v_pool: _Tensor,
    scale: _Tensor,
    query_embedding: _Tensor | None,
    local_bias: _Tensor | None,
    pool_bias: _Tensor | None,
    row_map: _Tensor | None,
    col_map: _Tensor | None,
    col_weights: _Tensor | None,
    tokens: _Tensor | None,
    token_bias: _Tensor | None,
    d_q: _Tensor | None,
    d_k: _Tensor | None,
    d_v: _Tensor | None,
    d_k_pool: _Tensor | None,
    d_v_pool: _Tensor | None,
    d_scale: _Tensor | None,
    d_query_embedding: _Tensor | None,
    d_local_bias: _Tensor | None,
    d_pool_bias: _Tensor | None,
    d_tokens: _Tensor | None,
    d_token_bias: _Tensor | None,
    grid: Sequence[int],
    pool_grid: Sequence[int],
    window_size: int,
    deterministic: bool,
    threads: int,
    /,
) -> None: ...
def window_qk(
    q: _Tensor,
    k: _Tensor,
    bias: _Tensor | None,
    attn: _Tensor,
    grid: Sequence[int],
    window_size: int,
    threads: int,
    /,
) -> None: ...
def window_qk_backward(
    d_attn: _Tensor,
    q: _Tensor,
    k: _Tensor,
    d_q: _Tensor | None,
    d_k: _Tensor | None,
    d_bias: _Tensor | None,
    grid: Sequence[int],
    window_size: int,
    threads: int,
    /,
) -> None: ...
def window_av(
    attn: _Tensor,
    v: _Tensor,
    out: _Tensor,
    grid: Sequence[int],
    window_size: int,
    threads: int,
    /,
) -> None: ...
def window_av_backward(
    d_out: _Tensor,
    attn: _Tensor,
    v: _Tensor,
    d_attn: _Tensor | None,
    d_v: _Tensor | None,
    grid: Sequence[int],
    window_size: int,
    threads: int,
    /,
) -> None: ...
def position_bias_table(
    row_coords: _Tensor,
    col_coords: _Tensor,
    fc1_weight: _Tensor,
    fc1_bias: _Tensor,
    fc2_weight: _Tensor,
    fc2_bias: _Tensor,
    table: _Tensor,
    threads: int,
    /,
) -> None: ...
def position_bias_table_backward(
    d_table: _Tensor,
    row_coords: _Tensor,
    col_coords: _Tensor,
    fc1_weight: _Tensor,
    fc1_bias: _Tensor,
    fc2_weight: _Tensor,
    fc2_bias: _Tensor,
    d_fc1_weight: _Tensor | None,
    d_fc1_bias: _Tensor | None,
    d_fc2_weight: _Tensor | None,
    d_fc2_bias: _Tensor | None,
    threads: int,
    /,
) -> None: ...
def conv_glu(
    x: _Tensor,
    weight: _Tensor,
    bias: _Tensor | None,
    x_bias: _Tensor | None,
    out: _Tensor,
    grid: Sequence[int],
    threads: int,
    /,
) -> None: ...
def conv_glu_backward(
    d_out: _Tensor,
    x: _Tensor,
    weight: _Tensor,
    bias: _Tensor | None,
    x_bias: _Tensor | None,
    d_x: _Tensor | None,
    d_weight: _Tensor | None,
    d_bias: _Tensor | None,
    d_x_bias: _Tensor | None,
    grid: Sequence[int],
    threads: int,
    /,
) -> None: ...
def gelu_pool(
    x: _Tensor,
    out: _Tensor,
    grid: Sequence[int],
    pool_grid: Sequence[int],
    threads: int,
    /,
) -> None: ...
def gelu_pool_backward(
    d_out: _Tensor,
    x: _Tensor,
    d_x: _Tensor,
    grid: Sequence[int],
    pool_grid: Sequence[int],
    threads: int,
    /,
) -> None: ...
def add_layer_norm(
    branch: _Tensor,
    x: _Tensor,
    weight: _Tensor,
    bias: _Tensor,
    branch_scale: _Tensor | None,
    branch_bias: _Tensor | None,
    normed: _Tensor,
    total: _Tensor,
    epsilon: float,
    threads: int,
    /,
) -> None: ...
def add_layer_norm_backward(
    d_normed: _Tensor,
    d_total: _Tensor | None,
    total: _Tensor,
    weight: _Tensor,
    branch_scale: _Tensor | None,
    d_branch: _Tensor | None,
    d_x: _Tensor | None,
    d_weight: _Tensor | None,
    d_bias: _Tensor | None,
    d_branch_bias: _Tensor | None,
    epsilon: float,
    threads: int,
    /,
) -> None: ...
def deformable_attention(
    value: _Tensor,
    offsets: _Tensor,
    logits: _Tensor,
    reference: _Tensor,
    out: _Tensor,
    shapes: Sequence[int],
    threads: int,
    /,
) -> None: ...
def deformable_attention_backward(
    d_out: _Tensor,
    value: _Tensor,
    offsets: _Tensor,
    logits: _Tensor,
    reference: _Tensor,
    d_value: _Tensor | None,
    d_offsets: _Tensor | None,
    d_logits: _Tensor | None,
    d_reference: _Tensor | None,
    shapes: Sequence[int],
    deterministic: bool,
    threads: int,
    /,
) -> None: ...
def attention_residual(
    x: _Tensor,
    norm_weight: _Tensor,
    norm_bias: _Tensor,
    projections: _Tensor,
    projections_bias: _Tensor | None,
    pool_norm_weight: _Tensor | None,
    pool_norm_bias: _Tensor | None,
    pool_projections: _Tensor | None,
    scale: _Tensor,
    query_embedding: _Tensor | None,
    local_bias: _Tensor | None,
    pool_bias: _Tensor | None,
    row_map: _Tensor | None,
    col_map: _Tensor | None,
    col_weights: _Tensor | None,
    tokens: _Tensor | None,
    token_bias: _Tensor | None,
    out_projection: _Tensor,
    out_bias: _Tensor | None,
    out: _Tensor,
    grid: Sequence[int],
    pool_grid: Sequence[int],
    window_size: int,
    heads: int,
    width: int,
    epsilon: float,
    pool_epsilon: float,
    features: str,
    threads: int,
    /,
) -> None: ...
def conv_glu_residual(
    x: _Tensor,
    norm_weight: _Tensor,
    norm_bias: _Tensor,
    value_weight: _Tensor,
    gate_weight: _Tensor,
    fc1_bias: _Tensor | None,
    conv_weight: _Tensor,
    conv_bias: _Tensor | None,
    fc2_weight: _Tensor,
    fc2_bias: _Tensor | None,
    out: _Tensor,
    grid: Sequence[int],
    width: int,
    hidden: int,
    epsilon: float,
    threads: int,
    /,
) -> None: ...
def patch_embed(
    x: _Tensor,
    weight: _Tensor,
    bias: _Tensor | None,
    norm_weight: _Tensor,
    norm_bias: _Tensor,
    out: _Tensor,
    grid: Sequence[int],
    channels: int,
    columns: int,
    kernel: int,
    stride: int,
    channels_last: bool,
    epsilon: float,
    threads: int,
    /,
) -> None: ...
def token_norm(
    x: _Tensor,
    norm_weight: _Tensor,
    norm_bias: _Tensor,
    out: _Tensor,
    epsilon: float,
    threads: int,
    /,
) -> None: ...
def pooled_linear(
    x: _Tensor,
    weight: _Tensor,
    bias: _Tensor | None,
    out: _Tensor,
    threads: int,
    /,
) -> None: ...
