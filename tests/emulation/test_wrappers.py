"""What the emulation makes of tensor-core products, ldmatrix and cp.async, against NumPy.

tests/emulation/test_wrappers_ptx.py runs the same kernels as PTX.
"""

from __future__ import annotations

import pytest
import wrapper_cases as cases
from emulated import Memory


@pytest.mark.parametrize("case", cases.CASES, ids=lambda case: case.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_wrapper(small_kernels, case, seed: int) -> None:
    def run(kernel: str, threads: int, shared: int, arrays: list, numbers: list[int]) -> None:
        params = cases.params([array.ctypes.data for array in arrays], numbers)
        memory = [
            Memory(f"array {i}", array.ctypes.data, array.nbytes, i == len(arrays) - 1)
            for i, array in enumerate(arrays)
        ]
        launch = (kernel, (1, 1, 1), (threads, 1, 1), shared, params)
        small_kernels.run([launch], memory, seed)

    case(run)
