"""Fused blocks that run one after the other, by one call of the compiled library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

from transnext_ops.backends import cpp_backend
from transnext_ops.dispatch import eager

__all__ = ["Program", "runs_programs"]


class Program:
    """A sequence of fused blocks, checked once when it is recorded, for every later call.

    What it computes is what the blocks compute one after the other, to the last bit. Tokens between
    them are in memory that a thread keeps for its next call. It can run in any number of threads.
    """

    def __init__(self) -> None:
        self._compiled = cpp_backend.new_program()
        self._tokens: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return len(self._compiled)

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record the fused blocks that this thread calls within, instead of running them.

        The first takes an empty batch, and each of the others what the one before returns. Whatever
        else is called runs as ever.
        """
        with cpp_backend.recording(self._compiled):
            yield

    def ends_with(self, tokens: Tensor) -> None:
        """Say what the last block returned: ``[0, N, C]``."""
        self._tokens = (tokens.shape[1], tokens.shape[2])

    def __call__(self, x: Tensor) -> Tensor:
        """Run the blocks on a batch of what the first of them was recorded with.

        Parameters
        ----------
        x : Tensor
            On the CPU, of the recorded type and, but for the batch, shape; any strides, though a
            map in the memory format that the patch embedding's weights were packed for.

        Returns
        -------
        Tensor [B, N, C]
            Of x's type.

        Raises
        ------
        ValueError
            ``x`` has another type or shape than when the program was recorded.
        """
        out = x.new_empty((x.shape[0], *self._tokens))
        cpp_backend.run_program(self._compiled, x, out)
        return out


def runs_programs(x: Tensor) -> bool:
    """Whether calls on `x` may be replaced by a program: it can run, and nobody sees operators."""
    return cpp_backend.has_programs() and eager.sees_nobody(x)
