"""Stochastic depth."""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["DropPath"]


class DropPath(nn.Module):
    """Drop a residual branch for whole samples, and scale the kept ones to keep the mean.

    Source: Huang et al., "Deep networks with stochastic depth", ECCV 2016.

    Parameters
    ----------
    rate : float
        Probability of dropping, in [0, 1). The identity in evaluation and for rate 0.
    """

    def __init__(self, rate: float = 0.0) -> None:
        super().__init__()
        if not 0.0 <= rate < 1.0:
            raise ValueError(f"rate: a probability in [0, 1) is needed, got {rate}")
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """``x`` is ``[B, ...]``; the result has its shape and dtype."""
        if self.rate == 0.0 or not self.training:
            return x
        keep = 1.0 - self.rate
        mask = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(keep)
        return x * mask.div_(keep)

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"
