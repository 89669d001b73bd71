"""The published extension's six functions against the reference, every backend and dtype."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import transnext_ops as ops
import transnext_reference as reference
from strategies import TokenCase, dtypes, token_cases
from tolerances import assert_agrees
from transnext_ops.compat import swattention

BACKENDS = [name for name in ops.available_backends() if name != "cupy"]


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=token_cases(channels=st.sampled_from((24, 8, 32)), dtype=dtypes))
def test_six_functions(backend: str, case: TokenCase) -> None:
    shape = (case.batch, case.heads, case.length)
    window_length = case.window_size**2
    numbers, dtype = case.numbers, case.dtype
    q, k, v, d_out = (numbers.activation(*shape, case.channels, dtype=dtype) for _ in range(4))
    attn, d_attn = (numbers.activation(*shape, window_length, dtype=dtype) for _ in range(2))
    rpb = numbers.activation(case.heads, window_length, dtype=dtype)
    tail = (*case.grid, case.window_size, 128)
    sizes = {"grid": case.grid, "window_size": case.window_size}

    def exact(*tensors):
        return [tensor.double().numpy() for tensor in tensors]

    qk = reference.window_qk(*exact(q, k), None, **sizes)
    qk_rpb = reference.window_qk(*exact(q, k, rpb), **sizes)
    d_qk = reference.window_qk_backward(*exact(d_attn, q, k, rpb), **sizes)
    d_av = reference.window_av_backward(*exact(d_out, attn, v), **sizes)
    with ops.use_backend(backend):
        results = {
            "qk_forward": ([swattention.qk_forward(q, k, *tail)], [qk]),
            "qk_rpb_forward": ([swattention.qk_rpb_forward(q, k, rpb, *tail)], [qk_rpb]),
            "av_forward": (
                [swattention.av_forward(attn, v, *tail)],
                [reference.window_av(*exact(attn, v), **sizes)],
            ),
            "qk_backward": (swattention.qk_backward(d_attn, q, k, *tail), [d_qk["q"], d_qk["k"]]),
            "qk_rpb_backward": (
                swattention.qk_rpb_backward(d_attn, q, k, *tail),
                [d_qk["q"], d_qk["k"], d_qk["bias"]],
            ),
            "av_backward": (
                swattention.av_backward(d_out, attn, v, *tail),
                [d_av["attn"], d_av["v"]],
            ),
        }
    for name, (actual, expected) in results.items():
        assert len(actual) == len(expected)
        work = case.channels + window_length + case.batch * case.length
        for position, (one, other) in enumerate(zip(actual, expected, strict=True)):
            assert one.dtype == dtype
            assert not one.requires_grad
            assert_agrees(
                f"{name}[{position}]", one, other, dtype=dtype, work=work, gradient=True,
                condition=1e-6 * work if dtype == torch.float32 else 0.0,
            )  # fmt: skip


def test_errors_name_the_argument() -> None:
    q = torch.zeros(1, 2, 6, 8)
    with pytest.raises(ValueError, match="q: got 6 tokens in dimension 2"):
        swattention.qk_forward(q, q, 2, 2, 3, 128)
    with pytest.raises(ValueError, match="d_attn: got shape"):
        swattention.qk_backward(q, q, q, 3, 2, 3, 128)
    with pytest.raises(ValueError, match="d_out: got shape"):
        swattention.av_backward(q[..., :4], torch.zeros(1, 2, 6, 9), q, 3, 2, 3, 128)


def test_autocast_does_not_change_what_the_extension_computes() -> None:
    q = torch.randn(1, 2, 6, 8)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert swattention.qk_forward(q, q, 3, 2, 3, 128).dtype == torch.float32
