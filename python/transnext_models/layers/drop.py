"""Stochastic depth."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.fx
from torch import Tensor, nn

__all__ = ["DropPath"]


@torch.fx.wrap
def _mask(x: Tensor, rate: float) -> Tensor:
    """Ones for the samples to keep, ``[B, 1, ...]``, zeros for a fraction of ``rate``."""
    return x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(1.0 - rate)


class DropPath(nn.Module):
    """Drop a residual branch for whole samples, and rescale the others to preserve the mean.

    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016.

    Parameters
    ----------
    rate : float
        Probability of dropping, in [0, 1). The identity in evaluation and for rate 0.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rate: got {rate}, needs a probability in [0, 1)")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is ``[B, ...]``; the result has its shape and dtype."""
        if self.rate == 0.0 or not self.training:
            return x
        return x * _mask(x, self.rate).div_(1.0 - self.rate)

    def scales(self, x: Tensor, branches: int) -> Sequence[Tensor | None]:
        """Draw the factor of each sample of ``x [B, ...]`` for so many branches at once.

        Returns
        -------
        Tensor [branches, B], or as many None where all factors are 1.
        """
        if self.rate == 0.0 or not self.training:
            return [None] * branches
        factors = x.new_empty((branches, x.shape[0])).bernoulli_(1.0 - self.rate)
        return factors.div_(1.0 - self.rate).unbind()

    def residual(self, x: Tensor, branch: Callable[[Tensor], Tensor]) -> Tensor:
        """Return ``x + self(branch(x))`` for a `branch` that treats samples independently.

        It computes only the samples that are kept, and one if all are dropped, so that its
        parameters still get a gradient, of zero.
        """
        if self.rate == 0.0 or not self.training or x.shape[0] == 0:
            return x + self(branch(x))
        mask = _mask(x, self.rate)
        scale = 1.0 / (1.0 - self.rate)
        kept = mask.flatten().nonzero().flatten()
        if len(kept) == x.shape[0]:
            return torch.add(x, branch(x), alpha=scale)
        if len(kept) == 0:
            kept, scale = kept.new_zeros(1), 0.0
        y = branch(x.index_select(0, kept))
        return x.index_add(0, kept, y.to(x.dtype), alpha=scale)

    def extra_repr(self) -> str:
        """Return what the module shows of itself."""
        return f"rate={self.rate:.3f}"
