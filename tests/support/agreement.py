"""Operators of a backend against the NumPy reference: values and gradients of one given case.

Used with drawn cases by the agreement tests of every backend, and with chosen ones by the tests of
the CUDA kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import transnext_ops as ops
import transnext_reference as reference
from strategies import AttentionCase, Numbers, PositionBiasCase, TokenCase, compute_dtype
from tolerances import ARITHMETIC_UNIT, CONDITION_FACTOR, STORAGE_UNIT, assert_agrees

Gradients = dict[str, np.ndarray]
# Logits whose rounding is not their inputs', and the bias that moves them.
ROUNDED = {"local_logits": "local_bias", "pool_logits": "pool_bias"}


def array(tensor: Tensor | None) -> np.ndarray | None:
    return None if tensor is None else tensor.detach().double().cpu().numpy()


def leaves(tensors: dict[str, Any]) -> dict[str, Tensor]:
    """Return the tensors that get a gradient, as leaves in their own memory layout."""
    return {
        name: tensor.detach().requires_grad_()
        for name, tensor in tensors.items()
        if isinstance(tensor, Tensor)
    }


def gradients_of(out: Tensor, inputs: dict[str, Tensor], d_out: Tensor) -> dict[str, Tensor]:
    found = torch.autograd.grad(out, list(inputs.values()), d_out)
    return dict(zip(inputs, found, strict=True))


def compare_gradients(
    actual: dict[str, Tensor],
    expected: Gradients,
    conditions: dict[str, float],
    dtype: torch.dtype,
    work: float,
) -> None:
    assert set(actual) == set(expected)
    for name, gradient in actual.items():
        assert_agrees(
            f"gradient of {name}", gradient, expected[name], dtype=dtype, work=work, gradient=True,
            condition=conditions[name],
        )  # fmt: skip


def movement(generator: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    if name in ROUNDED:
        return generator.standard_normal(shape)
    return generator.choice((-1.0, 1.0), shape)


def condition_numbers(
    function: Callable[[dict[str, Any]], Gradients], inputs: dict[str, Any], units: dict[str, float]
) -> dict[str, float]:
    """Return how far each result of `function` moves when its float inputs move by their units.

    An input is rounded once; what is rounded many times moves by as much on the average.
    """
    exact = function(inputs)
    moved: dict[str, float] = dict.fromkeys(exact, 0.0)
    for seed in range(2):
        generator = np.random.default_rng(seed)
        nearby = {
            name: value * (1 + units[name] * movement(generator, name, value.shape))
            if name in units and isinstance(value, np.ndarray)
            else value
            for name, value in inputs.items()
        }
        for name, value in function(nearby).items():
            with np.errstate(invalid="ignore"):
                difference = np.nan_to_num(value - exact[name], nan=0.0, posinf=0.0, neginf=0.0)
            moved[name] = max(moved[name], float(np.linalg.norm(difference)))
    return {name: CONDITION_FACTOR * value for name, value in moved.items()}


def reference_attention(arguments: dict[str, Any], maps: tuple | None) -> dict[str, Any]:
    """Expand a tabled bias to the dense one that the reference takes."""
    if maps is None:
        return arguments
    return {**arguments, "pool_bias": reference.expand_position_bias(arguments["pool_bias"], *maps)}


def cancellation_floor(
    inputs: dict[str, np.ndarray], d_out: np.ndarray, case: AttentionCase
) -> dict[str, float]:
    """Return what the rounding of d_logit = a (dp - sum a dp) leaves in each gradient.

    The two terms cancel wherever the softmax is saturated (one key, extreme logits), and no
    perturbation of the inputs shows it, since both terms move together. dp = d_out · v is of size
    ‖d_out‖ ‖v‖; its rounding, and that of the stored output, goes on to q, k, biases and scale.
    """
    unit = max(4 * ARITHMETIC_UNIT[case.dtype], 0.25 * STORAGE_UNIT[case.dtype])
    values = [inputs[name] for name in ("v", "v_pool") if name in inputs]
    if case.batch == 0:
        return {}
    value_size = max(float(np.sqrt((value**2).sum(-1).mean())) for value in values)
    noise = unit * value_size * np.linalg.norm(d_out, axis=-1)  # [B, N, h]
    lengths = np.log(case.window_size**2 + case.pool_length)
    scaled = noise * inputs["scale"] * max(lengths, 1e-300)
    embedding = inputs.get("query_embedding", np.zeros(1))
    query_size = 1 + float(np.abs(embedding).max()) * np.sqrt(case.head_dim)

    def inverse_norm(x: np.ndarray) -> np.ndarray:
        return 1 / np.maximum(np.linalg.norm(x, axis=-1), 1e-12)

    plain, total = float(np.linalg.norm(noise)), float(np.linalg.norm(scaled))
    floors = dict.fromkeys(("local_bias", "pool_bias"), plain)
    floors["scale"] = plain * lengths * query_size
    floors["query_embedding"] = total
    floors["q"] = float(np.linalg.norm(scaled * inverse_norm(inputs["q"])))
    for name in ("k", "k_pool"):
        if name in inputs:
            floors[name] = total * query_size * float(inverse_norm(inputs[name]).max())
    return floors


def logit_size(inputs: dict[str, np.ndarray], case: AttentionCase) -> float:
    """Return the largest sum of a logit's terms, without their signs."""
    keys = max(case.window_size**2 + case.pool_length, 1)
    embedding = inputs.get("query_embedding", np.zeros((1, 1)))
    query = 1 + float(np.linalg.norm(embedding, axis=-1).max())
    cosine = float(np.abs(inputs["scale"]).max()) * math.log(keys) * query
    biases = (inputs.get(name, np.zeros(1)) for name in ("local_bias", "pool_bias"))
    return cosine + max(float(np.abs(bias).max(initial=0.0)) for bias in biases)


def check_attention(case: AttentionCase, backend: str) -> None:
    tensors = case.tensors()
    bias = tensors["pool_bias"]
    tabled = isinstance(bias, ops.PositionBias)
    inputs = leaves({**tensors, "pool_bias": bias.table if tabled else bias})
    keywords: dict[str, Any] = {"grid": case.grid, "window_size": case.window_size}
    keywords["pool_grid"] = case.pool_grid
    call = {**dict.fromkeys(tensors), **inputs}
    maps = None
    if tabled:
        call["pool_bias"] = ops.PositionBias(
            call["pool_bias"], bias.row_map, bias.col_map, bias.col_weights
        )
        maps = (bias.row_map.cpu().numpy(), bias.col_map.cpu().numpy(), array(bias.col_weights))
    if case.window_size == 0:
        out = ops.global_attention(
            call["q"], call["k_pool"], call["v_pool"], grid=case.grid, scale=call["scale"],
            query_embedding=call["query_embedding"], bias=call["pool_bias"], backend=backend,
        )  # fmt: skip
    else:
        out = ops.aggregated_attention(**call, **keywords, backend=backend)
    assert out.dtype == case.dtype

    numbers = {name: array(value) for name, value in inputs.items()}
    d_out = Numbers(case.seed + 1).activation(*out.shape, dtype=case.dtype, layout=case.layout)

    def forward(arguments: dict[str, Any]) -> Gradients:
        arguments = {**dict.fromkeys(tensors), **arguments}
        moved = {name: arguments.pop(name) for name in ROUNDED if name in arguments}
        arguments = reference_attention(arguments, maps)
        for name, value in moved.items():
            bias = arguments[ROUNDED[name]]
            arguments[ROUNDED[name]] = value - size + (0.0 if bias is None else bias)
        result, _ = reference.aggregated_attention(**arguments, **keywords)
        return {"out": result}

    def backward(arguments: dict[str, Any]) -> Gradients:
        table = arguments.get("pool_bias")
        arguments = {**dict.fromkeys(tensors), **arguments}
        result = reference.aggregated_attention_backward(
            array(d_out), **reference_attention(arguments, maps), **keywords
        )
        if maps is not None:
            result["pool_bias"] = reference.expand_position_bias_backward(
                result["pool_bias"], table, *maps
            )
        return {name: value for name, value in result.items() if name in inputs}

    units = dict.fromkeys(numbers, ARITHMETIC_UNIT[case.dtype])
    # A logit is rounded after each of its additions, by what its terms are, not by what is left of
    # them: numbers of that size, whose movements go on to the logits.
    size = logit_size(numbers, case)
    logits = {
        "local_logits": np.full((case.heads, case.window_size**2), size),
        "pool_logits": np.full((case.heads, case.length, case.pool_length), size),
    }
    conditions = condition_numbers(
        forward, numbers | logits, units | dict.fromkeys(logits, ARITHMETIC_UNIT[case.dtype])
    )
    assert_agrees(
        "out", out, forward(numbers)["out"], dtype=case.dtype, work=case.work,
        condition=conditions["out"],
    )  # fmt: skip
    # The saved output is rounded to storage: the gradient's sum over a · (d_out · v) sees v so.
    units |= {"v": STORAGE_UNIT[case.dtype], "v_pool": STORAGE_UNIT[case.dtype]}
    conditions = condition_numbers(backward, numbers, units)
    expected = backward(numbers)
    # The weights are recomputed as exp(logit - log-sum-exp), the latter saved in the compute type:
    # the rounding of a logit's terms is the weight's relative error, and need not be the forward's.
    again = 2 * ARITHMETIC_UNIT[case.dtype] * size
    for name, gradient in expected.items():
        conditions[name] += again * float(np.linalg.norm(gradient))
    for name, floor in cancellation_floor(numbers, array(d_out), case).items():
        if name in conditions:
            conditions[name] += floor
    compare_gradients(
        gradients_of(out, inputs, d_out), expected, conditions, case.dtype,
        case.work + case.batch * case.length,
    )  # fmt: skip


EVERYTHING = AttentionCase(
    batch=2, grid=(7, 6), heads=2, head_dim=24, pool_grid=(3, 2), window_size=3,
    dtype=torch.float32, layout="packed", magnitude="ordinary", bias="extrapolated",
    optional=(True,) * 4, seed=0,
)  # fmt: skip


def edge(**changes: Any) -> AttentionCase:
    return AttentionCase(**{**EVERYTHING.__dict__, **changes})


def check_operator(
    case: TokenCase,
    inputs: dict[str, Tensor],
    out: Tensor,
    forward: Callable[..., np.ndarray],
    backward: Callable[..., Gradients],
    work: float,
    gradient_work: float,
) -> None:
    """Compare an operator's output and gradients with the reference's `forward` and `backward`."""
    numbers = {name: array(value) for name, value in inputs.items()}
    units = dict.fromkeys(numbers, ARITHMETIC_UNIT[case.dtype])
    conditions = condition_numbers(lambda given: {"out": forward(**given)}, numbers, units)
    assert_agrees(
        "out", out, forward(**numbers), dtype=case.dtype, work=work, condition=conditions["out"]
    )
    d_out = Numbers(case.seed + 1).activation(*out.shape, dtype=case.dtype, layout=case.layout)

    def gradients(given: dict[str, Any]) -> Gradients:
        found = backward(array(d_out), **given)
        return {name: value for name, value in found.items() if name in inputs}

    compare_gradients(
        gradients_of(out, inputs, d_out), gradients(numbers),
        condition_numbers(gradients, numbers, units), case.dtype, gradient_work,
    )  # fmt: skip


def head_major(case: TokenCase, last: int) -> Tensor:
    """Return an activation [B, h, N, last] in the case's layout."""
    shape = (case.batch, case.heads, case.length, last)
    return case.numbers.activation(*shape, dtype=case.dtype, layout=case.layout)


def check_window_qk(case: TokenCase, backend: str) -> None:
    window_length = case.window_size**2
    inputs = leaves({"q": head_major(case, case.channels), "k": head_major(case, case.channels)})
    if case.with_bias:
        bias = case.numbers.parameter(case.heads, window_length, dtype=case.dtype)
        inputs["bias"] = bias.requires_grad_()
    sizes = {"grid": case.grid, "window_size": case.window_size}
    out = ops.window_qk(**inputs, **sizes, backend=backend)

    def forward(q, k, bias=None):
        return reference.window_qk(q, k, bias, **sizes)

    def backward(d_out, q, k, bias=None):
        return reference.window_qk_backward(d_out, q, k, bias, **sizes)

    work = case.channels + 1
    check_operator(
        case, inputs, out, forward, backward, work, window_length + case.batch * case.length
    )


def check_window_av(case: TokenCase, backend: str) -> None:
    window_length = case.window_size**2
    inputs = leaves({"attn": head_major(case, window_length), "v": head_major(case, case.channels)})
    sizes = {"grid": case.grid, "window_size": case.window_size}
    out = ops.window_av(**inputs, **sizes, backend=backend)

    def forward(attn, v):
        return reference.window_av(attn, v, **sizes)

    def backward(d_out, attn, v):
        return reference.window_av_backward(d_out, attn, v, **sizes)

    check_operator(
        case, inputs, out, forward, backward, window_length, window_length + case.channels
    )


def check_conv_glu(case: TokenCase, backend: str) -> None:
    """With a bias of x in even batches."""
    hidden = case.channels
    shape = (case.batch, case.length, 2 * hidden)
    inputs = {
        "x": case.numbers.activation(*shape, dtype=case.dtype, layout=case.layout),
        "weight": case.numbers.parameter(hidden, 1, 3, 3, dtype=case.dtype),
    }
    if case.with_bias:
        inputs["bias"] = case.numbers.parameter(hidden, dtype=case.dtype)
    if case.batch % 2 == 0:
        inputs["x_bias"] = case.numbers.parameter(2 * hidden, dtype=case.dtype)
    inputs = leaves(inputs)
    out = ops.conv_glu(**inputs, grid=case.grid, backend=backend)

    def forward(x, weight, bias=None, x_bias=None):
        return reference.conv_glu(x, weight, bias, x_bias, grid=case.grid)

    def backward(d_out, x, weight, bias=None, x_bias=None):
        return reference.conv_glu_backward(d_out, x, weight, bias, x_bias, grid=case.grid)

    check_operator(case, inputs, out, forward, backward, 10, 10 + case.batch * case.length)


def check_gelu_pool(case: TokenCase, backend: str) -> None:
    shape = (case.batch, case.length, case.channels)
    inputs = leaves({"x": case.numbers.activation(*shape, dtype=case.dtype, layout=case.layout)})
    sizes = {"grid": case.grid, "pool_grid": case.pool_grid}
    out = ops.gelu_pool(**inputs, **sizes, backend=backend)

    def forward(x):
        return reference.gelu_pool(x, **sizes)

    def backward(d_out, x):
        return reference.gelu_pool_backward(d_out, x, **sizes)

    check_operator(case, inputs, out, forward, backward, case.length, case.length)


def check_position_bias(case: PositionBiasCase, backend: str) -> None:
    """The table with its axis maps is the bias of every pair computed straight from the formula."""
    sizes: dict[str, Any] = case.sizes
    inputs, dtype = case.parameters(), case.dtype
    bias = ops.position_bias(**inputs, **sizes, backend=backend)
    dense = bias.dense()
    numbers = {name: array(value) for name, value in inputs.items()}
    units = dict.fromkeys(numbers, ARITHMETIC_UNIT[dtype])

    def forward(given: dict[str, Any]) -> Gradients:
        return {"dense": reference.position_bias(**given, **sizes)}

    condition = condition_numbers(forward, numbers, units)["dense"]
    assert_agrees(
        "dense",
        dense,
        forward(numbers)["dense"],
        dtype=dtype,
        work=case.hidden,
        condition=condition,
    )
    d_dense = Numbers(case.seed + 1).parameter(*dense.shape, dtype=compute_dtype(dtype))
    expected = reference.position_bias_backward(array(d_dense), **numbers, **sizes)
    # A hidden unit on the edge of its ReLU may fall on either side: forgive only such units.
    actual = gradients_of(dense, inputs, d_dense)
    # The output's gradients are summed: where they cancel, the rounding of the sums stays.
    given_too = {"d_dense": array(d_dense)}
    conditions = condition_numbers(
        lambda given: reference.position_bias_backward(
            given["d_dense"], **{name: given[name] for name in numbers}, **sizes
        ),
        {**numbers, **given_too},
        {**units, "d_dense": ARITHMETIC_UNIT[dtype]},
    )
    compare_gradients(actual, expected, conditions, dtype, float(dense.numel()))


def check_window_av_ignores_weights_outside_the_image(backend: str) -> None:
    attn, v = torch.rand(1, 1, 6, 9), torch.randn(1, 1, 6, 4)
    sizes: dict[str, Any] = {"grid": (2, 3), "window_size": 3, "backend": backend}
    expected = ops.window_av(attn, v, **sizes)
    outside = torch.isinf(ops.window_qk(v, v, **sizes))
    for poison in (float("inf"), float("nan")):
        poisoned = attn.masked_fill(outside, poison).requires_grad_()
        values = v.clone().requires_grad_()
        out = ops.window_av(poisoned, values, **sizes)
        torch.testing.assert_close(out, expected, rtol=0, atol=0)
        out.sum().backward()
        assert poisoned.grad is not None
        assert (poisoned.grad[outside] == 0).all()
        assert values.grad is not None
        assert torch.isfinite(values.grad).all()
