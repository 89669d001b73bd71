"""The emulation itself: kernels that CUDA allows compute what they should, others are reported."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import wrapper_cases as cases
from emulated import EmulationError, Library, Memory


def launch(
    library: Library,
    kernel: str,
    out: np.ndarray,
    values: np.ndarray,
    *,
    grid: Any = (1, 1, 1),
    block: Any = (32, 1, 1),
    shared: int = 0,
    choice: int = 0,
    seed: int = 0,
) -> np.ndarray:
    arrays = (out, values)
    params = cases.params([array.ctypes.data for array in arrays], [values.size, choice])
    memory = [
        Memory(name, array.ctypes.data, array.nbytes, name == "out")
        for name, array in zip(("out", "in"), arrays, strict=True)
    ]
    library.run([(kernel, grid, block, shared, params)], memory, seed)
    return out


def empty(size: int) -> np.ndarray:
    return np.full(size, np.nan, np.float32)


def numbers(size: int) -> np.ndarray:
    return np.arange(1, size + 1, dtype=np.float32)


SEEDS = range(6)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("threads", [1, 32, 33, 100, 1024])
def test_shared_memory_and_barrier(small_kernels, threads: int, seed: int) -> None:
    values = numbers(3 * threads)
    out = launch(
        small_kernels, "reverse", empty(values.size), values,
        grid=(3, 1, 1), block=(threads, 1, 1), shared=4 * threads, seed=seed,
    )  # fmt: skip
    expected = values.reshape(3, threads)[:, ::-1].ravel()
    np.testing.assert_array_equal(out, expected)


def test_a_missing_barrier_shows_in_the_result(small_kernels) -> None:
    values = numbers(64)
    for seed in SEEDS:
        out = launch(
            small_kernels, "reverse_without_barrier", empty(64), values,
            block=(64, 1, 1), shared=256, seed=seed,
        )  # fmt: skip
        assert np.isnan(out).any()  # shared memory that nobody has written


def test_shared_memory_is_poisoned_between_blocks(small_kernels) -> None:
    out = launch(
        small_kernels, "read_what_the_last_block_left", np.zeros(96, np.float32), numbers(1),
        grid=(3, 1, 1),
    )  # fmt: skip
    assert np.isnan(out).all()


def test_every_index(small_kernels) -> None:
    out = launch(
        small_kernels, "indices", empty(24 * 6), numbers(1), grid=(3, 2, 1), block=(4, 3, 2), seed=3
    )
    z, y, x = np.meshgrid(np.arange(2), np.arange(3), np.arange(4), indexing="ij")
    thread = (x + 10 * y + 100 * z).ravel()
    expected = [thread + 1000 * bx + 10000 * by for by in range(2) for bx in range(3)]
    np.testing.assert_array_equal(out, np.concatenate(expected))


@pytest.mark.parametrize("seed", SEEDS)
def test_shuffles_and_votes(small_kernels, seed: int) -> None:
    values = numbers(32)
    lane = np.arange(32)
    out = launch(small_kernels, "shuffles", empty(320), values, seed=seed).reshape(32, 10)
    sources = [
        (lane + 5) % 32,
        lane ^ 3,
        np.where(lane >= 2, lane - 2, lane),
        np.where(lane % 8 == 0, lane + 7, lane),
        lane // 8 * 8 + 1,
    ]
    for column, source in enumerate(sources):
        np.testing.assert_array_equal(out[:, column], values[source])
    np.testing.assert_array_equal(out[:, 5:8], np.tile([1, 1, 0], (32, 1)))
    np.testing.assert_array_equal(out[:, 8], values[lane ^ 15])
    np.testing.assert_array_equal(out[:, 9], np.full(32, 11))


def test_atomics(small_kernels) -> None:
    values = numbers(100)
    out = launch(
        small_kernels, "atomic_sum", np.zeros(1, np.float32), values,
        grid=(4, 1, 1), block=(32, 1, 1),
    )  # fmt: skip
    assert out[0] == values.sum()


def test_copies_arrive_at_the_wait(small_kernels) -> None:
    values = numbers(128)
    keywords: dict[str, Any] = {"shared": 528}
    out = launch(small_kernels, "asynchronous_copy", empty(32), values, choice=0, **keywords)
    np.testing.assert_array_equal(out, values[3::4])
    early = launch(small_kernels, "asynchronous_copy", empty(32), values, choice=1, **keywords)
    assert np.isnan(early).all()


# kernel, choice, what the error says
WRONG = [
    ("barrier_after_exit", 5, "exit"),
    ("divergent_barrier", 7, "divergent barrier: __syncthreads"),
    ("deadlock", 40, "deadlock"),
    ("read_global", 1, "0 bytes beyond the end of in"),
    ("read_global", -1, "4 bytes before in"),
    ("read_global", 1000, "bytes beyond the end of in"),
    ("write_global", 1, "0 bytes beyond the end of out"),
    ("write_global", -1, "4 bytes before out"),
    ("write_input", 0, "of in (256 bytes), an input"),
    ("write_dynamic_shared", 1, "outside dynamic shared memory"),
    ("write_dynamic_shared", -1, "outside dynamic shared memory"),
    ("write_static_shared", 2, "outside an array's bounds"),
    ("read_misaligned", 1, "misaligned"),
    ("shuffle_outside_its_mask", 0, "not in its mask"),
    ("shuffle_from_outside_its_mask", 0, "reads lane 20"),
    ("shuffle_with_exited_lanes", 20, "exit"),
    ("shuffle_of_two_minds", 0, "shfl"),
    ("asynchronous_copy", 2, "copies under way"),
    ("asynchronous_copy", 3, "not a multiple of 16"),
]


@pytest.mark.parametrize(("kernel", "choice", "message"), WRONG)
def test_what_cuda_does_not_allow_is_an_error(small_kernels, kernel, choice, message) -> None:
    """Out of bounds by little is found against the guard that the seed chooses: within two."""
    values, before = numbers(64), empty(64)
    found = []
    shared = 64 * 4 if kernel != "asynchronous_copy" else 64 * 16 + 16
    size = values if kernel != "asynchronous_copy" else numbers(256)
    for seed in SEEDS:
        out = before.copy()
        try:
            launch(
                small_kernels, kernel, out, size, block=(64, 1, 1), shared=shared, choice=choice,
                seed=seed,
            )  # fmt: skip
        except EmulationError as error:
            found.append(str(error))
            np.testing.assert_array_equal(out, before)  # nothing is written back
    assert any(message in text for text in found), found
    assert all(text.startswith(kernel) for text in found)
    if "bytes" not in message and "shared" not in message:
        assert len(found) == len(SEEDS), found


def test_requests_that_cannot_run(small_kernels) -> None:
    with pytest.raises(EmulationError, match="no kernel nothing"):
        launch(small_kernels, "nothing", empty(1), numbers(1))
    with pytest.raises(EmulationError, match="a block of 1025 threads"):
        launch(small_kernels, "reverse", empty(1), numbers(1), block=(1025, 1, 1))
    with pytest.raises(EmulationError, match="takes 24 bytes of parameters, got 8"):
        small_kernels.run([("reverse", (1, 1, 1), (1, 1, 1), 0, bytes(8))], [], 0)
    with pytest.raises(EmulationError, match="more shared memory"):
        launch(small_kernels, "reverse", empty(1), numbers(1), shared=1 << 20)
