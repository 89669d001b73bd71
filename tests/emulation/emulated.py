"""Runs CUDA kernels in the project's emulation (cpp/emulation), for tests.

`EmulatedKernels` is a runner of recorded launches: inside ``use_runner(EmulatedKernels(library))``
the ``cpp`` backend's operators on CPU tensors run the kernels, under the launch plans, that a GPU
would run. A kernel's error raises `EmulationError` with its text.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

# Tensors at the end of an operator's arguments that it writes.
OUTPUTS = {
    "aggregated_attention": 2,
    "aggregated_attention_backward": 11,
    "window_qk": 1,
    "window_qk_backward": 3,
    "window_av": 1,
    "window_av_backward": 2,
    "position_bias_table": 1,
    "position_bias_table_backward": 4,
    "conv_glu": 1,
    "conv_glu_backward": 4,
    "add_layer_norm": 2,
    "add_layer_norm_backward": 5,
    "deformable_attention": 1,
    "deformable_attention_backward": 4,
    "gelu_pool": 1,
    "gelu_pool_backward": 1,
}


class EmulationError(RuntimeError):
    """What the emulation found wrong in a kernel."""


class _Launch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("params_bytes", ctypes.c_uint),
        ("params", ctypes.c_char_p),
    )


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("begin", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("output", ctypes.c_bool),
    )


class Memory:
    """A tensor's bytes, by name, for `Library.run`."""

    def __init__(self, name: str, address: int, size: int, output: bool) -> None:
        self.entry = _Tensor(name.encode(), address, size, output)


class Library:
    """The compiled emulation."""

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(str(path))
        self._library.transnext_emulated_kernels.restype = ctypes.c_char_p
        self._emulate = self._library.transnext_emulate
        self._emulate.argtypes = (
            ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_ulonglong,
            ctypes.c_char_p, ctypes.c_int,
        )  # fmt: skip
        self.kernels = set(self._library.transnext_emulated_kernels().decode().split("\n")) - {""}

    def run(self, launches: Sequence[tuple], memory: Sequence[Memory], seed: int) -> None:
        """Run launches (kernel, grid, block, shared bytes, params) on copies of the memory, then
        write the outputs back; raise `EmulationError` and write nothing if a kernel is wrong."""
        listed = (_Launch * len(launches))(
            *(
                _Launch(name.encode(), grid, block, shared, len(params), params)
                for name, grid, block, shared, params in launches
            )
        )
        tensors = (_Tensor * len(memory))(*(part.entry for part in memory))
        error = ctypes.create_string_buffer(2048)
        sizes = len(launches), tensors, len(memory), seed, error, len(error)
        if self._emulate(listed, *sizes):
            raise EmulationError(error.value.decode(errors="replace"))


def memory_of(tensor: Tensor, name: str, output: bool) -> Memory:
    """Return the bytes from a tensor's first element in memory to its last."""
    if tensor.numel() == 0:
        return Memory(name, tensor.data_ptr(), 0, output)
    last = sum(
        (size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)
    )
    return Memory(name, tensor.data_ptr(), (last + 1) * tensor.element_size(), output)


# Kernels that step on by the size of the grid, so that fewer blocks than planned are right too.
STEPPING = (
    "add_layer_norm_forward",
    "deformable_attention_",
    "gelu_pool_",
    "conv_glu_forward",
    "window_",
    "position_bias_table_",
    "sum_partials",
)


class EmulatedKernels:
    """A runner (``transnext_ops.backends.launches.Runner``) that emulates every launch.

    Parameters
    ----------
    library
        The compiled emulation.
    capability
        The compute capability that launches are planned for.
    seed
        Of the order of blocks and threads, changed by one with every call.
    most_blocks
        A smaller grid than planned, for the kernels that step on, as the largest tensors need.
    """

    def __init__(
        self,
        library: Library,
        capability: int = 80,
        seed: int = 0,
        most_blocks: int | None = None,
    ) -> None:
        self.library, self.capability, self.seed = library, capability, seed
        self.most_blocks = most_blocks
        self.blocks: dict[str, int] = {}  # of the kernels that have run, as last planned

    @property
    def kernels(self) -> set[str]:
        """Those that have run."""
        return set(self.blocks)

    def architecture(self, device: torch.device) -> int:
        return self.capability

    def run(self, op: str, launches: Any, tensors: Sequence[Tensor | None]) -> None:
        outputs = OUTPUTS[op]
        workspace = 1 if launches.workspace > 0 else 0
        first_output = len(tensors) - workspace - outputs
        memory = []
        for position, tensor in enumerate(tensors):
            if tensor is None:
                continue
            output = position >= first_output
            if output:  # a GPU's memory holds anything before
                tensor.fill_(float("nan"))
            memory.append(memory_of(tensor, f"{op}'s tensor {position}", output))
        self.seed += 1
        kernels = launches.kernels
        self.blocks |= {kernel: grid[0] for kernel, grid, *_ in kernels}
        self.library.run([self._with_fewer_blocks(*each) for each in kernels], memory, self.seed)

    def _with_fewer_blocks(self, kernel: str, grid: tuple[int, int, int], *others: Any) -> tuple:
        if self.most_blocks is not None and kernel.startswith(STEPPING):
            grid = (min(grid[0], self.most_blocks), *grid[1:])
        return (kernel, grid, *others)
