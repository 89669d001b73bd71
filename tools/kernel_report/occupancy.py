"""Theoretical occupancy: the fraction of a multiprocessor's warps that can be resident.

Source: CUDA C++ Programming Guide, technical specifications per compute capability, and the
allocation units of NVIDIA's occupancy calculator.
"""

from __future__ import annotations

from dataclasses import dataclass

_WARP = 32
_REGISTERS = 64 * 1024  # of a multiprocessor, on all of these architectures
_REGISTER_UNIT = 256  # a warp's registers come in multiples of it
_WARP_UNIT = 4  # a block's warps hold registers in multiples of it


@dataclass(frozen=True)
class Multiprocessor:
    """What blocks share.

    Attributes
    ----------
    warps, blocks : int
        The most that are resident.
    shared_bytes : int
        Shared memory of all blocks together.
    reserved_bytes, shared_unit : int
        Shared memory that the driver takes of each block, and the unit it is given out in.
    """

    warps: int
    blocks: int
    shared_bytes: int
    reserved_bytes: int = 1024
    shared_unit: int = 128


MULTIPROCESSORS = {
    75: Multiprocessor(32, 16, 64 * 1024, reserved_bytes=0, shared_unit=256),
    80: Multiprocessor(64, 32, 164 * 1024),
    86: Multiprocessor(48, 16, 100 * 1024),
    89: Multiprocessor(48, 24, 100 * 1024),
    90: Multiprocessor(64, 32, 228 * 1024),
    100: Multiprocessor(64, 32, 228 * 1024),
    120: Multiprocessor(48, 24, 100 * 1024),
}


def occupancy(architecture: int, registers: int, threads: int, shared_bytes: int) -> float:
    """Return the resident warps as a part of the most, of blocks of one kernel.

    Parameters
    ----------
    architecture : int
        Compute capability, major * 10 + minor.
    registers : int
        Of each thread.
    threads : int
        Of each block.
    shared_bytes : int
        Of each block, static and dynamic.
    """
    m = MULTIPROCESSORS[architecture]
    warps = _round_up(threads, _WARP) // _WARP
    blocks = min(m.blocks, m.warps // warps)
    if registers > 0:
        warp_registers = _round_up(registers * _WARP, _REGISTER_UNIT)
        held = _REGISTERS // warp_registers // _WARP_UNIT * _WARP_UNIT
        blocks = min(blocks, held // warps)
    block_bytes = _round_up(shared_bytes + m.reserved_bytes, m.shared_unit)
    if block_bytes > 0:
        blocks = min(blocks, m.shared_bytes // block_bytes)
    return blocks * warps / m.warps


def _round_up(value: int, unit: int) -> int:
    return -(-value // unit) * unit
