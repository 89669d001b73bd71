"""Thread instructions of attention as a sequence of one-thread-per-output kernels, counted.

    python -m benchmarks.cuda.instructions

TransNeXt-Tiny's first stage at 224x224, one image and head, float16: the kernels of ``unfused.cu``
run on the CPU in the PTX emulator (nvcc is needed). What the fused kernel executes is reported by
``python -m tools.kernel_report attention 24``.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from tools.kernel_report import emulator

ROOT = Path(__file__).resolve().parents[2]
HEIGHT = WIDTH = 56
POOLED, WINDOW, HEAD_DIM, THREADS = 49, 3, 24, 256


def compiled() -> str:
    """Return the PTX of ``unfused.cu``."""
    source = Path(__file__).with_name("unfused.cu")
    with tempfile.TemporaryDirectory() as folder:
        ptx = Path(folder) / "unfused.ptx"
        includes = [f"-I{ROOT / 'cpp'}", f"-I{ROOT / 'cpp' / 'include'}"]
        command = ["nvcc", "-std=c++17", "-arch=sm_80", "-ptx", *includes, source, "-o", ptx]
        subprocess.run(command, check=True)
        return ptx.read_text()


def main() -> None:
    """Run each unfused kernel in the emulator and print what it executes."""
    if (reason := emulator.unavailable(ROOT)) is not None:
        raise SystemExit(reason)
    module = emulator.load(ROOT).Module(compiled())
    length, cells = HEIGHT * WIDTH, WINDOW**2
    columns = cells + POOLED
    numbers = np.random.default_rng(0)

    def half(*shape: int) -> np.ndarray:
        return numbers.standard_normal(shape).astype(np.float16)

    q, k, v = (half(length, HEAD_DIM) for _ in range(3))
    k_pool, v_pool = half(POOLED, HEAD_DIM), half(POOLED, HEAD_DIM)
    local_bias, pool_bias = np.zeros(cells, np.float32), np.zeros((length, POOLED), np.float32)
    local, pooled, joined = half(length, cells), half(length, POOLED), half(length, columns)
    out = half(length, HEAD_DIM)
    image = (1, HEIGHT, WIDTH, WINDOW, HEAD_DIM)
    launches: list[tuple[str, int, tuple[Any, ...]]] = [
        ("window_qk", length * cells, (q, k, local_bias, local, *image)),
        ("pooled_qk", length * POOLED, (q, k_pool, pool_bias, pooled, 1, length, POOLED, HEAD_DIM)),
        ("concatenate", length * columns, (local, pooled, joined, length, cells, POOLED)),
        ("softmax", length, (joined, length, columns)),
        ("window_av", length * HEAD_DIM, (joined, v, out, *image, columns)),
        (
            "pooled_av",
            length * HEAD_DIM,
            (joined, v_pool, out, 1, length, POOLED, HEAD_DIM, columns, cells),
        ),
    ]
    total = 0
    for name, outputs, arguments in launches:
        (kernel,) = (entry for entry in module.kernels() if name in entry and "Half" in entry)
        given = [np.int32(value) if isinstance(value, int) else value for value in arguments]
        blocks = -(-outputs // THREADS)
        result = module.launch(kernel, grid=(blocks,), block=(THREADS,), args=given, strict=True)
        executed = result.stats["thread_instructions"]
        print(f"{name:12} {executed / length:8.0f} thread instructions per query")
        total += executed
    print(f"{'all':12} {total / length:8.0f}, a sixth of them {total / length / 6:.0f}")


if __name__ == "__main__":
    main()
