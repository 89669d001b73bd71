"""The six functions of the published ``swattention`` CUDA extension, on every device and backend.

Code written for the extension runs unchanged after ``from transnext_ops.compat import
swattention``. The functions are forward and backward halves without autograd, as in the extension;
for differentiable calls see :func:`transnext_ops.window_qk` and :func:`transnext_ops.window_av`.
The trailing `cuda_threads` is accepted and ignored.

Layouts: q, k, v, outputs ``[B, h, N, d]``; attn ``[B, h, N, L]``, L = kernel_size²; rpb ``[h, L]``;
N = height · width. Logits outside the image are -inf and get no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from transnext_ops.backends import registry
from transnext_ops.operators.checks import (
    check_activation,
    check_grid,
    check_length,
    check_like,
    check_window_size,
)
from transnext_ops.operators.window import window_av, window_qk

__all__ = [
    "av_backward",
    "av_forward",
    "qk_backward",
    "qk_forward",
    "qk_rpb_backward",
    "qk_rpb_forward",
]


def qk_forward(
    q: Tensor, k: Tensor, height: int, width: int, kernel_size: int, cuda_threads: int
) -> Tensor:
    """Return attn[n, j] = q[n] · k[n + offset_j], -inf outside the image, [B, h, N, L]."""
    with torch.no_grad(), _no_autocast(q):
        return window_qk(q, k, grid=(height, width), window_size=kernel_size)


def qk_rpb_forward(
    q: Tensor,
    k: Tensor,
    rpb: Tensor,
    height: int,
    width: int,
    kernel_size: int,
    cuda_threads: int,
) -> Tensor:
    """Return :func:`qk_forward` plus the relative position bias rpb[h, j]."""
    with torch.no_grad(), _no_autocast(q):
        return window_qk(q, k, rpb, grid=(height, width), window_size=kernel_size)


def av_forward(
    attn: Tensor, v: Tensor, height: int, width: int, kernel_size: int, cuda_threads: int
) -> Tensor:
    """Return sum_j attn[n, j] v[n + offset_j], [B, h, N, d]."""
    with torch.no_grad(), _no_autocast(v):
        return window_av(attn, v, grid=(height, width), window_size=kernel_size)


def qk_backward(
    d_attn: Tensor,
    q: Tensor,
    k: Tensor,
    height: int,
    width: int,
    kernel_size: int,
    cuda_threads: int,
) -> list[Tensor]:
    """Return [dq, dk] of :func:`qk_forward`."""
    return _qk_gradients(d_attn, q, k, height, width, kernel_size, with_bias=False)


def qk_rpb_backward(
    d_attn: Tensor,
    q: Tensor,
    k: Tensor,
    height: int,
    width: int,
    kernel_size: int,
    cuda_threads: int,
) -> list[Tensor]:
    """Return [dq, dk, drpb] of :func:`qk_rpb_forward`, drpb in q's dtype."""
    return _qk_gradients(d_attn, q, k, height, width, kernel_size, with_bias=True)


def av_backward(
    d_out: Tensor,
    attn: Tensor,
    v: Tensor,
    height: int,
    width: int,
    kernel_size: int,
    cuda_threads: int,
) -> list[Tensor]:
    """Return [d_attn, dv] of :func:`av_forward`; d_attn is 0 outside the image."""
    grid, window_size = check_grid("height, width", (height, width)), check_window_size(kernel_size)
    check_activation("v", v, "[B, h, N, d]")
    batch, heads, length, _ = v.shape
    check_length("v", length, "height, width", grid, "2")
    window_sizes = (batch, heads, length, window_size * window_size)
    check_like("attn", attn, "[B, h, N, L]", window_sizes, "v", v)
    check_like("d_out", d_out, "[B, h, N, d]", tuple(v.shape), "v", v)
    backend = _resolve("window_av", v, window_size)
    if backend != "torch":
        return torch.ops.transnext.window_av_backward(
            d_out, attn, v, grid, window_size, [True, True], backend
        )
    with torch.enable_grad(), _no_autocast(v):
        inputs = [tensor.detach().requires_grad_() for tensor in (attn, v)]
        out = window_av(*inputs, grid=grid, window_size=window_size, backend=backend)
    return list(torch.autograd.grad(out, inputs, d_out))


def _qk_gradients(
    d_attn: Tensor,
    q: Tensor,
    k: Tensor,
    height: int,
    width: int,
    kernel_size: int,
    *,
    with_bias: bool,
) -> list[Tensor]:
    grid, window_size = check_grid("height, width", (height, width)), check_window_size(kernel_size)
    check_activation("q", q, "[B, h, N, d]")
    batch, heads, length, _ = q.shape
    check_length("q", length, "height, width", grid, "2")
    check_like("k", k, "[B, h, N, d]", tuple(q.shape), "q", q)
    window_sizes = (batch, heads, length, window_size * window_size)
    check_like("d_attn", d_attn, "[B, h, N, L]", window_sizes, "q", q)
    backend = _resolve("window_qk", q, window_size)
    if backend != "torch":
        gradients = torch.ops.transnext.window_qk_backward(
            d_attn, q, k, grid, window_size, [True, True, with_bias], backend
        )
    else:
        with torch.enable_grad(), _no_autocast(q):
            inputs = [tensor.detach().requires_grad_() for tensor in (q, k)]
            if with_bias:
                bias = q.new_zeros((heads, window_size * window_size))
                inputs.append(bias.requires_grad_())
            out = window_qk(*inputs, grid=grid, window_size=window_size, backend=backend)
        gradients = torch.autograd.grad(out, inputs, d_attn)
    return [gradient.to(q.dtype) for gradient in gradients]


def _resolve(op: str, first: Tensor, window_size: int) -> str:
    call = registry.Call(op, first.device, first.dtype, first.shape[-1], window_size)
    return registry.resolve(registry.get_backend(), call)


def _no_autocast(tensor: Tensor) -> torch.autocast:
    """Disable autocast, which the extension ignores: it computes in the dtype of its inputs."""
    device_type = tensor.device.type if isinstance(tensor, Tensor) else "cpu"
    return torch.autocast(device_type, enabled=False)
