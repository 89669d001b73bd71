"""Cases of deformable attention: what is drawn is their shape, not their numbers.

A bilinear map has a kink at the centres of cells, where gradients of places jump. References are
odd multiples of 1/512 and offsets multiples of 1/16, so that no place is closer than 1/512 to a
centre and every storage type holds it exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

from strategies import Numbers, batches, compute_dtype, dtypes, layouts, seeds, with_layout


@dataclass(frozen=True)
class DeformableCase:
    """One call of deformable attention, from points (2 numbers of a reference) or boxes (4)."""

    batch: int
    queries: int
    heads: int
    channels: int
    points: int
    numbers: int
    shapes: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    layout: str
    seed: int

    @property
    def samples(self) -> int:
        return len(self.shapes) * self.points

    @property
    def cells(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the call's arrays by argument name; some places are far outside."""
        generator = np.random.default_rng(self.seed)
        of_head = (self.batch, self.queries, self.heads, self.samples)
        of_query = (self.batch, self.queries, len(self.shapes))
        reference = generator.integers(0, 256, (*of_query, 2)) / 256 + 1 / 512
        if self.numbers == 4:
            sides = self.points / 2.0 ** generator.integers(1, 3, (*of_query, 2))
            reference = np.concatenate((reference, sides), -1)
        return {
            "value": generator.standard_normal((self.batch, self.cells, self.heads, self.channels)),
            "offsets": np.rint(generator.standard_normal((*of_head, 2)) * 40).clip(-127, 127) / 16,
            "logits": 2 * generator.standard_normal(of_head),
            "reference": reference,
        }

    def tensors(self) -> dict[str, Tensor]:
        """Return them as tensors."""
        numbers, arrays = Numbers(self.seed), self.arrays()
        compute = compute_dtype(self.dtype)
        return {
            name: numbers.tensor(array, compute)
            if name == "reference"
            else with_layout(numbers.tensor(array, self.dtype), self.layout)
            for name, array in arrays.items()
        }


_sides = st.tuples(st.integers(1, 9), st.integers(1, 9))


def deformable_cases(
    dtype: st.SearchStrategy[torch.dtype] = dtypes,
) -> st.SearchStrategy[DeformableCase]:
    return st.builds(
        DeformableCase,
        batch=batches,
        queries=st.sampled_from((5, 1, 40, 0)),
        heads=st.sampled_from((1, 2, 3, 9)),
        channels=st.sampled_from((32, 1, 9, 16, 24, 100)),
        points=st.sampled_from((4, 1, 3, 11)),
        numbers=st.sampled_from((2, 4)),
        shapes=st.lists(_sides, min_size=1, max_size=4).map(tuple),
        dtype=dtype,
        layout=layouts,
        seed=seeds,
    )


ORDINARY = DeformableCase(
    batch=2, queries=33, heads=8, channels=32, points=4, numbers=2,
    shapes=((6, 9), (3, 5), (2, 3), (1, 1)), dtype=torch.float32, layout="contiguous", seed=0,
)  # fmt: skip


def ordinary(**changes: Any) -> DeformableCase:
    return DeformableCase(**{**ORDINARY.__dict__, **changes})
