"""What the PTX emulator reports of wrong kernels."""

from __future__ import annotations

import numpy as np
import pytest

from tools.ptxemu import EmuError

I32 = np.int32


@pytest.fixture
def x() -> np.ndarray:
    return np.arange(128).astype(I32)


@pytest.fixture
def out() -> np.ndarray:
    return np.zeros(128, I32)


def fails(kind: str, launch, *arguments, **options) -> str:
    with pytest.raises(EmuError) as caught:
        launch(*arguments, **options)
    assert caught.value.kind == kind, caught.value
    return str(caught.value)


def test_race_between_warps(launch, x, out) -> None:
    result = launch("bad_race", 1, 128, [x, out])
    assert result.diagnostics["race_between_warps"] > 0
    assert any("race" in warning for warning in result.warnings)


def test_race_within_a_warp(launch, x, out) -> None:
    result = launch("bad_race_warp", 1, 32, [x, out])
    assert result.diagnostics["race_within_warp"] > 0
    assert result.diagnostics["race_between_warps"] == 0


def test_syncwarp_orders(launch, x, out) -> None:
    assert launch("good_warp", 1, 32, [x, out], strict=True).races == 0


def test_race_of_halves(launch) -> None:
    arrays = [np.zeros(64, np.float16), np.zeros(64, np.float16)]
    assert launch("bad_race_half", 1, 64, arrays).diagnostics["race_between_warps"] > 0


def test_missing_second_barrier(launch, x, out) -> None:
    assert launch("bad_war", 1, 64, [x, out, 4]).diagnostics["race_between_warps"] > 0


def test_write_behind_an_array(launch, out) -> None:
    message = fails("oob", launch, "bad_oob", 1, 32, [out[:32], 5])
    for part in ("thread (27,0,0)", "bad_oob", "128 of 128 bytes"):
        assert part in message


def test_read_before_an_array(launch, x, out) -> None:
    fails("oob", launch, "bad_neg", 1, 32, [x, out])


def test_write_outside_shared_memory(launch, out) -> None:
    fails("oob", launch, "bad_soob", 1, 32, [out, 4])


def test_misaligned_vector(launch, rng) -> None:
    arrays = [rng.random(64, np.float32), rng.random(64, np.float32)]
    fails("misaligned", launch, "bad_align", 1, 32, arrays)


def test_misaligned_view(launch) -> None:
    view = np.zeros(17, np.float32)[1:]
    fails("misaligned", launch, "saxpy4", 1, 4, [view, np.zeros(16, np.float32), np.float32(1), 4])


def test_uninitialised_shared_memory(launch, out) -> None:
    result = launch("bad_uninit", 1, 64, [out])
    assert result.diagnostics["uninitialised_shared_reads"] == 32


def test_deadlock(launch, out) -> None:
    fails("deadlock", launch, "bad_deadlock", 1, 64, [out, 2])


def test_conflict_between_blocks(launch, out) -> None:
    result = launch("bad_blocks", 3, 32, [out], global_races=True)
    assert result.diagnostics["global_conflicts_between_blocks"] > 0


def test_write_to_a_read_only_array(launch, out) -> None:
    out.flags.writeable = False
    fails("readonly", launch, "bad_oob", 1, 32, [out, 0])


def test_endless_loop(launch) -> None:
    fails("limit", launch, "bad_endless", 1, 32, [np.zeros(1, I32)], max_instructions=100000)


def test_too_many_threads(launch, out) -> None:
    fails("launch", launch, "bad_blocks", 1, 2048, [out])
