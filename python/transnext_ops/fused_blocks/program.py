"""Fused blocks that run one after the other, by one call of the compiled library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor

from transnext_ops.backends import cpp_backend
from transnext_ops.dispatch import eager

__all__ = ["Program", "runs_programs"]


class Program:
    """A sequence of fused blocks, checked once when it is recorded, for every later call.

    What it computes is what the blocks compute one after the other, to the last bit. Its results
    are the tokens before each patch embedding, which takes them as its map, those before a pooled
    Linear, whose result is one token, and those at the end. Tokens that nobody wants are in memory
    that a thread keeps for its next call. It can run in any number of threads.
    """

    def __init__(self) -> None:
        self._compiled = cpp_backend.new_program()
        self._shapes: list[tuple[int, int]] = []  # [N, C] of each result

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
        self._shapes = self._compiled.result_shapes()

    def __call__(self, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """Run the blocks on a batch of what the first of them was recorded with.

        Parameters
        ----------
        x : Tensor
            On the CPU, of the recorded type and, but for the batch, shape; any strides, though a
            map in the memory format that the patch embedding's weights were packed for.
        wanted : sequence of int
            Numbers of results, from 0. Blocks behind the last of them do not run.

        Returns
        -------
        list of Tensor [B, N, C]
            These results, of x's type.

        Raises
        ------
        ValueError
            ``x`` has another type or shape than when the program was recorded.
        """
        outs = {number: x.new_empty((x.shape[0], *self._shapes[number])) for number in wanted}
        cpp_backend.run_program(self._compiled, x, list(map(outs.get, range(max(wanted) + 1))))
        return [outs[number] for number in wanted]


def runs_programs(x: Tensor) -> bool:
    """Whether calls on `x` may be replaced by a program: it can run, and nobody sees operators."""
    return cpp_backend.has_programs() and eager.sees_nobody(x)
