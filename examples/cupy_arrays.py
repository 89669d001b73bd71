"""The operators on CuPy arrays: memory is shared, results are CuPy arrays.

Run: ``python examples/cupy_arrays.py`` on a machine with a CUDA GPU and CuPy.
"""

import transnext_ops as ops


def main() -> None:
    """Attend over a 32×32 grid of CuPy tokens."""
    try:
        import cupy

        devices = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # not installed, or its driver is missing
        raise SystemExit(f"cupy: needs CuPy and a CUDA GPU ({error})") from None
    if not devices:
        raise SystemExit("cupy: needs a CUDA GPU, found none")

    heads, head_dim = 3, 24
    random = cupy.random.default_rng(0).standard_normal
    q, k, v = random((3, 1, 32 * 32, heads, head_dim), dtype=cupy.float32)
    k_pool, v_pool = random((2, 1, 4 * 4, heads, head_dim), dtype=cupy.float32)
    scale = cupy.ones(heads, dtype=cupy.float32)
    out = ops.aggregated_attention(
        q, k, v, k_pool, v_pool, grid=(32, 32), pool_grid=(4, 4), window_size=3, scale=scale
    )
    print(type(out).__module__, out.shape, float(cupy.abs(out).max()))


if __name__ == "__main__":
    main()
