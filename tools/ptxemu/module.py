"""A module of PTX, and launches of its kernels."""

from __future__ import annotations

import ctypes
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from tools.ptxemu.library import Options, load
from tools.ptxemu.result import LaunchResult

# What `strict` lets pass: a value written that was there, and conflicts that a shuffle orders.
_BENIGN = ("race_same_value_writes", "race_within_warp_shuffle_ordered")
_LEAST_OFFSET = 4096  # of an array in its window, so that small negative offsets are faults
_ALIGNMENT = 256  # of allocations on a device

_Key = tuple[int, int, bool]


class EmuError(RuntimeError):
    """A fault found while a kernel was loaded or run.

    Attributes
    ----------
    kind : str
        For instance ``"oob"``, ``"misaligned"``, ``"deadlock"``, ``"trap"``, ``"strict"``.
    result : LaunchResult or None
        What had been counted until then.
    """

    def __init__(self, kind: str, message: str, result: LaunchResult | None = None) -> None:
        super().__init__(f"[{kind}] {message}")
        self.kind = kind
        self.result = result


class Ptr:
    """A device pointer `offset` bytes into an array, all of which stays accessible."""

    def __init__(self, array: np.ndarray, offset: int = 0) -> None:
        self.array, self.offset = array, int(offset)


class Module:
    """A parsed module.

    Parameters
    ----------
    ptx : str or bytes
        PTX text.

    Raises
    ------
    EmuError
        The text cannot be parsed; the message names the line.
    """

    def __init__(self, ptx: str | bytes) -> None:
        self._handle = None
        self._library = load()
        if isinstance(ptx, bytes):
            ptx = ptx.rstrip(b"\0").decode()
        error = ctypes.create_string_buffer(2048)
        self._handle = self._library.emu_load(ptx.encode(), error, len(error))
        if not self._handle:
            raise EmuError("parse", error.value.decode(errors="replace"))
        self.info: dict[str, Any] = json.loads(self._library.emu_info(self._handle))
        self._kernels = {kernel["name"]: kernel for kernel in self.info["kernels"]}
        self._kept: list[Any] = []  # what addresses that were handed out point to
        self._addresses: dict[_Key, int] = {}  # of arrays registered by ptr()
        self._first_array = self._library.emu_range_count(self._handle)

    def __del__(self) -> None:
        if getattr(self, "_handle", None):
            self._library.emu_free(self._handle)

    def kernels(self) -> dict[str, dict[str, Any]]:
        """Return the entries: offsets, sizes and alignments of their parameters, and `maxntid`."""
        names = ("params", "maxntid")
        return {
            entry: {name: kernel[name] for name in names} for entry, kernel in self._kernels.items()
        }

    def find(self, part: str) -> str:
        """Return the one entry whose (mangled) name contains `part`; raise KeyError otherwise."""
        if part in self._kernels:
            return part
        matches = [name for name in self._kernels if part in name]
        if len(matches) != 1:
            found = matches or "no kernel"
            raise KeyError(f"{part!r} matches {found} of {list(self._kernels)}")
        return matches[0]

    def symbol(self, name: str, dtype: Any = np.uint8) -> np.ndarray:
        """Return a view of a ``__device__`` or ``__constant__`` variable's memory."""
        variable = self.info["globals"][name]
        buffer = (ctypes.c_uint8 * variable["bytes"]).from_address(variable["host"])
        self._kept.append(buffer)
        return np.frombuffer(buffer, np.uint8).view(dtype)

    def ptr(self, array: np.ndarray, offset: int = 0, name: str = "array") -> int:
        """Register an array until :meth:`release`; return its address, for pointers in structs."""
        key = _key(array)
        if key not in self._addresses:
            self._addresses[key] = self._register(array, name)
            self._kept.append(array)
        return self._addresses[key] + offset

    def release(self) -> None:
        """Forget all arrays registered by :meth:`ptr`."""
        self._addresses.clear()
        self._kept.clear()
        self._library.emu_truncate_ranges(self._handle, self._first_array)

    def launch(
        self,
        name: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Any],
        shared: int = 0,
        *,
        threads: int = 1,
        stats: bool = True,
        races: bool = True,
        uninit: bool = True,
        global_races: bool = False,
        strict: bool = False,
        profile: int = 0,
        max_instructions: int = 0,
        smem_limit: int = 232448,
        buffers: Sequence[np.ndarray] = (),
    ) -> LaunchResult:
        """Run a kernel.

        Parameters
        ----------
        name : str
            Its entry, or a part of the name that no other has.
        grid, block : int or sequence of int
            Blocks, and threads of a block; up to three numbers.
        args : sequence
            Arrays are passed as device pointers, :class:`Ptr` inside them; NumPy and Python
            numbers, ctypes structures and bytes by value; None is a null pointer.
        shared : int
            Bytes of dynamic shared memory.
        threads : int
            OS threads that share the blocks.
        stats, races, uninit, global_races : bool
            What is counted and checked; see README.md.
        strict : bool
            Make any diagnostic an error.
        profile : int
            Number of hottest instructions in ``stats["profile"]``.
        max_instructions : int
            Warp instructions per OS thread; 0 for no limit.
        smem_limit : int
            Most bytes of shared memory per block.
        buffers : sequence of array
            Further arrays that the kernel may access.

        Raises
        ------
        EmuError
            A fault of the kernel or of the launch.
        """
        name = self.find(name)
        parameters = self._kernels[name]["params"]
        if len(parameters) != len(args):
            raise EmuError("args", f"{name} takes {len(parameters)} parameters, got {len(args)}")
        before = self._library.emu_range_count(self._handle)
        try:
            size = parameters[-1]["offset"] + parameters[-1]["size"] if parameters else 0
            packed = bytearray(size)
            addresses = dict(self._addresses)
            for i, (parameter, argument) in enumerate(zip(parameters, args, strict=True)):
                raw = self._packed(i, parameter["size"], argument, addresses)
                packed[parameter["offset"] : parameter["offset"] + parameter["size"]] = raw
            for i, array in enumerate(buffers):
                self._address(array, f"buffer {i}", addresses)
            options = Options(
                _three(grid), _three(block), int(shared), int(threads), int(smem_limit),
                int(stats), int(races), int(uninit), int(global_races), int(profile),
                int(max_instructions),
            )  # fmt: skip
            text = self._library.emu_launch(
                self._handle, name.encode(), bytes(packed), size, ctypes.byref(options)
            )
            report = json.loads(text.decode(errors="replace"))
        finally:
            self._library.emu_truncate_ranges(self._handle, before)
        result = LaunchResult(report)
        if "error" in report:
            raise EmuError(report["error_kind"], report["error"], result)
        if strict:
            found = {k: v for k, v in result.diagnostics.items() if v and k not in _BENIGN}
            if found:
                raise EmuError("strict", f"{found}; {result.warnings[:3]}", result)
        return result

    def _register(self, array: np.ndarray, name: str) -> int:
        """Give an array's memory a window of the device's addresses; return its address there."""
        if array.size == 0:
            return self._library.emu_add_range(
                self._handle, None, 0, _LEAST_OFFSET, 0, name.encode()
            )
        low, high = _bounds(array)
        owner = array
        while isinstance(owner.base, np.ndarray):
            owner = owner.base
        # A view keeps its alignment relative to its owner, which begins as an allocation would.
        offset = _LEAST_OFFSET + (low - owner.ctypes.data) % _ALIGNMENT
        shown = f"{name} ({array.dtype}{list(array.shape)})".encode()
        begin = self._library.emu_add_range(
            self._handle, low, high - low, offset, int(not array.flags.writeable), shown
        )
        return begin + (array.ctypes.data - low)

    def _address(self, array: np.ndarray, name: str, addresses: dict[_Key, int]) -> int:
        key = _key(array)
        if key not in addresses:
            addresses[key] = self._register(array, name)
        return addresses[key]

    def _packed(self, i: int, size: int, value: Any, addresses: dict[_Key, int]) -> bytes:
        """Return a parameter's bytes."""
        offset = 0
        if isinstance(value, Ptr):
            value, offset = value.array, value.offset
        if isinstance(value, np.ndarray):
            if size != 8:
                message = f"argument {i} is an array but the parameter has {size} bytes"
                raise EmuError("args", message)
            address = self._address(value, f"argument {i}", addresses) + offset
            return int(address).to_bytes(8, "little")
        if value is None:
            raw = bytes(8)
        elif isinstance(value, bytes | bytearray | memoryview | ctypes.Structure):
            raw = bytes(value)
        elif isinstance(value, np.generic):
            raw = value.tobytes()
        elif isinstance(value, int):
            raw = (value & ((1 << (8 * size)) - 1)).to_bytes(size, "little")
        elif isinstance(value, float):
            raw = (np.float32(value) if size == 4 else np.float64(value)).tobytes()
        else:
            raise EmuError("args", f"argument {i}: cannot pass {type(value)}")
        if len(raw) != size:
            raise EmuError("args", f"argument {i} has {len(raw)} bytes, the parameter {size}")
        return raw


def _bounds(array: np.ndarray) -> tuple[int, int]:
    """Return the addresses of the first byte and behind the last."""
    low = high = array.ctypes.data
    for size, stride in zip(array.shape, array.strides, strict=True):
        low += min(0, (size - 1) * stride)
        high += max(0, (size - 1) * stride)
    return low, high + array.itemsize


def _key(array: np.ndarray) -> _Key:
    return array.ctypes.data, array.nbytes, array.flags.writeable


def _three(size: int | Sequence[int]) -> Any:
    given = tuple(size) if isinstance(size, list | tuple) else (size,)
    return (ctypes.c_uint32 * 3)(*(int(n) for n in (*given, 1, 1, 1)[:3]))
