"""Write ``transnext_ops/_cpp.pyi`` from the records of the operators.

python -m tools.cpp_stub
"""

from __future__ import annotations

from pathlib import Path

from transnext_ops.schema import FUSED_BLOCKS, OPERATORS

STUB = Path(__file__).resolve().parents[1] / "python" / "transnext_ops" / "_cpp.pyi"

_HEAD = '''\
"""The compiled operators: what ``backends/cpp_backend.py`` calls.

Written by ``python -m tools.cpp_stub`` from the records in ``schema.py``.

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
'''

_TYPES = {
    "tensor": "_Tensor",
    "optional tensor": "_Tensor | None",
    "grid": "Sequence[int]",
    "dtype": "str",
}


def text() -> str:
    """Return the stub file."""
    functions = []
    for operator in (*OPERATORS.values(), *FUSED_BLOCKS.values()):
        functions.append(_function(operator.name, operator.compiled_signature))
        if operator.has_backward:
            backward = operator.compiled_backward_signature
            functions.append(_function(f"{operator.name}_backward", backward))
    return _HEAD + "".join(functions)


def _function(name: str, signature: list[tuple[str, str]]) -> str:
    lines = [f"    {argument}: {_TYPES.get(kind, kind)},\n" for argument, kind in signature]
    return f"def {name}(\n{''.join(lines)}    /,\n) -> None: ...\n"


if __name__ == "__main__":
    STUB.write_text(text())
