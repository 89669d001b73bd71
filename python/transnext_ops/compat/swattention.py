"""The six functions of the published ``swattention`` CUDA extension, on every device and backend.

Code written for the extension runs unchanged after ``from transnext_ops.compat import
swattention``. The functions are forward and backward halves without autograd, as in the extension;
for differentiable calls see :func:`transnext_ops.window_qk` and :func:`transnext_ops.window_av`.
The trailing `cuda_threads` is accepted and ignored.

Layouts: q, k, v, outputs ``[B, h, N, d]``; attn ``[B, h, N, L]``, L = kernel_size²; rpb ``[h, L]``;
N = height · width. Logits outside the image are -inf and get no gradient.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from transnext_ops.backends import registry
from transnext_ops.operators.checks import Grid, check_like
from transnext_ops.operators.window import check_windows, window_av, window_qk

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
    q: Tensor, k: Tensor, rpb: Tensor,
    height: int, width: int, kernel_size: int, cuda_threads: int,
) -> Tensor:  # fmt: skip
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
    d_attn: Tensor, q: Tensor, k: Tensor,
    height: int, width: int, kernel_size: int, cuda_threads: int,
) -> list[Tensor]:  # fmt: skip
    """Return [dq, dk] of :func:`qk_forward`."""
    return _qk_gradients(d_attn, q, k, height, width, kernel_size, with_bias=False)


def qk_rpb_backward(
    d_attn: Tensor, q: Tensor, k: Tensor,
    height: int, width: int, kernel_size: int, cuda_threads: int,
) -> list[Tensor]:  # fmt: skip
    """Return [dq, dk, drpb] of :func:`qk_rpb_forward`, drpb in q's dtype."""
    return _qk_gradients(d_attn, q, k, height, width, kernel_size, with_bias=True)


def av_backward(
    d_out: Tensor, attn: Tensor, v: Tensor,
    height: int, width: int, kernel_size: int, cuda_threads: int,
) -> list[Tensor]:  # fmt: skip
    """Return [d_attn, dv] of :func:`av_forward`; d_attn is 0 outside the image."""
    grid, window_size, axes = check_windows("v", v, (height, width), kernel_size, "height, width")
    check_like("attn", attn, "[B, h, N, L]", tuple(axes.values()), "v", v)
    check_like("d_out", d_out, "[B, h, N, d]", tuple(v.shape), "v", v)
    return _gradients("window_av", d_out, [attn, v], v, grid, window_size, [True, True])


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
    grid, window_size, axes = check_windows("q", q, (height, width), kernel_size, "height, width")
    check_like("k", k, "[B, h, N, d]", tuple(q.shape), "q", q)
    check_like("d_attn", d_attn, "[B, h, N, L]", tuple(axes.values()), "q", q)
    needs = [True, True, with_bias]
    gradients = _gradients("window_qk", d_attn, [q, k], q, grid, window_size, needs)
    return [gradient.to(q.dtype) for gradient in gradients]


def _gradients(
    op: str,
    d_out: Tensor,
    inputs: list[Tensor],
    first: Tensor,
    grid: Grid,
    window_size: int,
    needs: list[bool],
) -> list[Tensor]:
    """Return a product's gradients by its two inputs and, where needed, by the bias of window_qk.

    `first` is the input that sets dtype and device.
    """
    call = registry.Call(op, first.device, first.dtype, first.shape[-1], window_size)
    backend = registry.resolve(registry.get_backend(), call)
    if backend != "torch":
        backward = getattr(torch.ops.transnext, f"{op}_backward")
        return backward(d_out, *inputs, grid, window_size, needs, backend)
    if needs[2:] == [True]:
        inputs = [*inputs, first.new_zeros((first.shape[1], window_size * window_size))]
    product: Callable[..., Tensor] = window_qk if op == "window_qk" else window_av
    with torch.enable_grad(), _no_autocast(first):
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        out = product(*leaves, grid=grid, window_size=window_size, backend=backend)
    return list(torch.autograd.grad(out, leaves, d_out))


def _no_autocast(tensor: Tensor) -> torch.autocast:
    """Disable autocast, which the extension ignores: it computes in the dtype of its inputs."""
    device_type = tensor.device.type if isinstance(tensor, Tensor) else "cpu"
    return torch.autocast(device_type, enabled=False)
