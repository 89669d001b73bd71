"""Attention with QKᵀ and PV over the pooled keys on TF32 tensor cores, against the reference.

A TF32 has a mantissa of 10 bits, so rounding changes an operand by 2^-11 of itself at most, and

    a pooled logit, qh . k / |k|,                by 2 2^-11 |qh|   (Cauchy and Schwarz),
    a softmax weight a_j = exp l_j / sum exp l,  by a factor of at most exp(2 x that),
    a product of weight and value                by 2 2^-11 of itself.

What that leaves in the log-sum-exp and the output is allowed, beside the tolerances of float32.
"""

from __future__ import annotations

import importlib
import math
from typing import Any

import numpy as np
import torch

import transnext_ops as ops
import transnext_reference as reference
from agreement import array, condition_numbers, logit_size, reference_attention
from strategies import AttentionCase
from tolerances import ARITHMETIC_UNIT, assert_agrees
from transnext_ops.backends.matmul_precision import tf32

TF32_UNIT = 2.0**-11
_TWO_ROUNDINGS = (1 + TF32_UNIT) ** 2 - 1


def check_attention_on_tf32(case: AttentionCase, backend: str) -> None:
    """Compare the forward kernel's output and log-sum-exp, TF32 being allowed."""
    tensors = case.tensors()
    bias = tensors.pop("pool_bias")
    tabled = isinstance(bias, ops.PositionBias)
    maps = (bias.row_map, bias.col_map, bias.col_weights) if tabled else (None,) * 3
    table = bias.table if tabled else bias
    names = (
        "q", "k", "v", "k_pool", "v_pool", "scale", "query_embedding", "local_bias", "tokens",
        "token_bias",
    )  # fmt: skip
    given = [tensors.get(name) for name in names]
    sizes = (case.grid, case.pool_grid, case.window_size)
    # The operator's function of the backend: it returns the log-sum-exp too.
    module = importlib.import_module(f"transnext_ops.backends.{backend}_backend")
    with tf32(True):
        out, log_sum_exp = module.aggregated_attention(*given[:8], table, *maps, *given[8:], *sizes)

    numbers = {name: array(value) for name, value in zip(names, given, strict=True)}
    numbers["pool_bias"] = array(table)
    numbers = {name: value for name, value in numbers.items() if value is not None}
    indices = tuple(map(_index, maps[:2])) if tabled else None
    expander = (*indices, array(maps[2])) if indices is not None else None

    def attend(**changes: Any) -> tuple[np.ndarray, np.ndarray]:
        arguments = {**dict.fromkeys((*names, "pool_bias")), **numbers, **changes}
        return reference.aggregated_attention(
            **reference_attention(arguments, expander),
            grid=case.grid, pool_grid=case.pool_grid, window_size=case.window_size,
        )  # fmt: skip

    units = dict.fromkeys(numbers, ARITHMETIC_UNIT[torch.float32])
    condition = condition_numbers(lambda moved: {"out": attend(**moved)[0]}, numbers, units)["out"]
    off = _logit_error(numbers, case)
    expected, expected_sums = attend()
    assert_agrees(
        "out", out, expected, dtype=torch.float32, work=case.work,
        condition=condition + float(np.linalg.norm(_output_error(attend, numbers, off))),
    )  # fmt: skip
    sums = np.asarray(array(log_sum_exp))
    allowed = off + ARITHMETIC_UNIT[torch.float32] * (4 * logit_size(numbers, case) + case.work)
    assert (np.abs(sums - expected_sums) <= allowed).all(), (
        f"log_sum_exp: error {np.abs(sums - expected_sums).max():.3e}"
    )


def _index(indices: torch.Tensor) -> np.ndarray:
    return indices.cpu().numpy()


def _logit_error(numbers: dict[str, np.ndarray], case: AttentionCase) -> np.ndarray:
    """Return by how much a pooled logit of each query may be off, [B, N, h]."""
    q = numbers["q"]
    query = q / np.maximum(np.linalg.norm(q, axis=-1, keepdims=True), 1e-12)
    query = query + numbers.get("query_embedding", 0.0)
    length_scale = math.log(case.window_size**2 + case.pool_length)
    scale = np.abs(numbers["scale"]) * length_scale
    return _TWO_ROUNDINGS * np.linalg.norm(query, axis=-1) * scale


def _output_error(attend: Any, numbers: dict[str, np.ndarray], off: np.ndarray) -> np.ndarray:
    """Return by how much each element of the output may be off, [B, N, h, d].

    The weights' changes sum to zero, so they move the softmax's average of the values by at most
    sum_j |da_j| |v_j - average|, and never beyond the values.
    """
    values = {name: numbers[name] for name in ("v", "v_pool") if name in numbers}
    if not off.size:
        return np.zeros_like(numbers["q"])
    plain = {"tokens": None, "token_bias": None}
    sizes = {name: np.abs(value) for name, value in values.items()}
    average, _ = attend(**values, **plain)
    spread = attend(**sizes, **plain)[0] + np.abs(average)
    largest = max(float(size.max()) for size in sizes.values())
    with np.errstate(over="ignore", invalid="ignore"):
        moved = np.fmin(np.expm1(2 * off)[..., None] * spread, 2 * largest)
    if "v" in sizes:
        sizes["v"] = np.zeros_like(sizes["v"])
    pooled = attend(**sizes, **plain)[0]
    return moved + _TWO_ROUNDINGS * (pooled + moved)
