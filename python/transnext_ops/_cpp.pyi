"""The compiled operators, on DLPack capsules: what ``backends/cpp_backend.py`` calls.

Each operator reads its input capsules, fills its output capsules and returns nothing. ``None``
stands for an absent input or a gradient that is not wanted. A capsule is borrowed for the call and
stays its owner's. After the sizes come the number of CPU threads and, for CUDA tensors, the
stream's handle. Wrong shapes, types or devices raise ValueError, what is no capsule TypeError, a
failed CUDA launch RuntimeError, an allocation that fails MemoryError.
"""

from collections.abc import Callable, Sequence
from typing import Any

__version__: str
cuda_architectures: str | None  # what the CUDA kernels were compiled for; None without them

class UnreadableTensor(ValueError):
    """A tensor has to be copied to be read (``backends/dlpack.py``)."""

def cpu_level() -> str: ...
def available_cpu_levels() -> list[str]: ...
def set_cpu_level(name: str | None) -> None: ...

class Launches:
    """What an operator runs on a GPU."""

    @property
    def source(self) -> str: ...  # header of the kernels, below the folder of device/
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

_Capsule = Any

def fingerprint(tensors: Sequence[_Capsule], threads: int = 1) -> int: ...

_Optional = Any  # a capsule or None
_Plan = tuple[tuple[int, int, int], tuple[int, int, int], int]  # grid, block, shared bytes

def aggregated_attention(
    q: _Capsule,
    k: _Optional,
    v: _Optional,
    k_pool: _Capsule,
    v_pool: _Capsule,
    scale: _Capsule,
    query_embedding: _Optional,
    local_bias: _Optional,
    pool_bias: _Optional,
    row_map: _Optional,
    col_map: _Optional,
    col_weights: _Optional,
    tokens: _Optional,
    token_bias: _Optional,
    out: _Capsule,
    log_sum_exp: _Capsule,
    grid: Sequence[int],
    pool_grid: Sequence[int],
    window_size: int,
    allow_tf32: bool,
    threads: int,
    /,
) -> None: ...
def aggregated_attention_backward(
    d_out: _Capsule,
    out: _Capsule,
    log_sum_exp: _Capsule,
    q: _Capsule,
    k: _Optional,
    v: _Optional,
    k_pool: _Capsule,
    v_pool: _Capsule,
    scale: _Capsule,
    query_embedding: _Optional,
    local_bias: _Optional,
    pool_bias: _Optional,
    row_map: _Optional,
    col_map: _Optional,
    col_weights: _Optional,
    tokens: _Optional,
    token_bias: _Optional,
    d_q: _Optional,
    d_k: _Optional,
    d_v: _Optional,
    d_k_pool: _Optional,
    d_v_pool: _Optional,
    d_scale: _Optional,
    d_query_embedding: _Optional,
    d_local_bias: _Optional,
    d_pool_bias: _Optional,
    d_tokens: _Optional,
    d_token_bias: _Optional,
    grid: Sequence[int],
    pool_grid: Sequence[int],
    window_size: int,
    deterministic: bool,
    threads: int,
    /,
) -> None: ...
def window_qk(
    q: _Capsule,
    k: _Capsule,
    bias: _Optional,
    attn: _Capsule,
    grid: Sequence[int],
    window_size: int,
    threads: int,
    /,
) -> None: ...
def window_qk_backward(
    d_attn: _Capsule,
    q: _Capsule,
    k: _Capsule,
    d_q: _Optional,
    d_k: _Optional,
    d_bias: _Optional,
    grid: Sequence[int],
    window_size: int,
    threads: int,
    /,
) -> None: ...
def window_av(
    attn: _Capsule,
    v: _Capsule,
    out: _Capsule,
    grid: Sequence[int],
    window_size: int,
    threads: int,
    /,
) -> None: ...
def window_av_backward(
    d_out: _Capsule,
    attn: _Capsule,
    v: _Capsule,
    d_attn: _Optional,
    d_v: _Optional,
    grid: Sequence[int],
    window_size: int,
    threads: int,
    /,
) -> None: ...
def position_bias_table(
    row_coords: _Capsule,
    col_coords: _Capsule,
    fc1_weight: _Capsule,
    fc1_bias: _Capsule,
    fc2_weight: _Capsule,
    fc2_bias: _Capsule,
    table: _Capsule,
    threads: int,
    /,
) -> None: ...
def position_bias_table_backward(
    d_table: _Capsule,
    row_coords: _Capsule,
    col_coords: _Capsule,
    fc1_weight: _Capsule,
    fc1_bias: _Capsule,
    fc2_weight: _Capsule,
    d_fc1_weight: _Optional,
    d_fc1_bias: _Optional,
    d_fc2_weight: _Optional,
    d_fc2_bias: _Optional,
    threads: int,
    /,
) -> None: ...
def conv_glu(
    x: _Capsule,
    weight: _Capsule,
    bias: _Optional,
    out: _Capsule,
    grid: Sequence[int],
    threads: int = 1,
) -> None: ...
def conv_glu_backward(
    d_out: _Capsule,
    x: _Capsule,
    weight: _Capsule,
    bias: _Optional,
    d_x: _Optional,
    d_weight: _Optional,
    d_bias: _Optional,
    grid: Sequence[int],
    threads: int = 1,
) -> None: ...
def gelu_pool(
    x: _Capsule,
    out: _Capsule,
    grid: Sequence[int],
    pool_grid: Sequence[int],
    threads: int = 1,
) -> None: ...
def gelu_pool_backward(
    d_out: _Capsule,
    x: _Capsule,
    d_x: _Capsule,
    grid: Sequence[int],
    pool_grid: Sequence[int],
    threads: int = 1,
) -> None: ...
def packed_weight_size(dtype: str, columns: int, depth: int, /) -> int: ...
def pack_weight(
    weight: _Capsule, packed: _Capsule, sizes: Sequence[int], threads: int, /
) -> None: ...
def attention_residual(
    x: _Capsule,
    norm_weight: _Capsule,
    norm_bias: _Capsule,
    projections: _Capsule,
    projections_bias: _Optional,
    pool_norm_weight: _Optional,
    pool_norm_bias: _Optional,
    pool_projections: _Optional,
    scale: _Capsule,
    query_embedding: _Optional,
    local_bias: _Optional,
    pool_bias: _Optional,
    row_map: _Optional,
    col_map: _Optional,
    col_weights: _Optional,
    tokens: _Optional,
    token_bias: _Optional,
    out_projection: _Capsule,
    out_bias: _Optional,
    out: _Capsule,
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
    x: _Capsule,
    norm_weight: _Capsule,
    norm_bias: _Capsule,
    value_weight: _Capsule,
    gate_weight: _Capsule,
    fc1_bias: _Optional,
    conv_weight: _Capsule,
    conv_bias: _Optional,
    fc2_weight: _Capsule,
    fc2_bias: _Optional,
    out: _Capsule,
    grid: Sequence[int],
    width: int,
    hidden: int,
    epsilon: float,
    threads: int,
    /,
) -> None: ...
def patch_embed(
    x: _Capsule,
    weight: _Capsule,
    bias: _Optional,
    norm_weight: _Optional,
    norm_bias: _Optional,
    out: _Capsule,
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
