"""Memory for packed weights that lie side by side: overlaps, alignment, lifetime, same content."""

from __future__ import annotations

import gc
import itertools
import weakref

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from transnext_ops import fused_blocks
from transnext_ops.fused_blocks import weight_memory

DTYPES = (torch.bfloat16, torch.float32, torch.float64, torch.int32)


@given(
    st.lists(st.tuples(st.integers(1, 3_000_000), st.sampled_from(DTYPES)), min_size=1, max_size=8)
)
def test_tensors_lie_side_by_side(wanted: list[tuple[int, torch.dtype]]) -> None:
    memory = weight_memory.WeightMemory()
    tensors = [memory.take(elements, dtype) for elements, dtype in wanted]

    for tensor, (elements, dtype) in zip(tensors, wanted, strict=True):
        assert (tensor.shape, tensor.dtype) == ((elements,), dtype)
        assert tensor.data_ptr() % 64 == 0
    places = [(tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes) for tensor in tensors]
    gaps = [begin - end for (_, end), (begin, _) in itertools.pairwise(sorted(places))]
    assert all(gap >= 0 for gap in gaps)
    if sum(tensor.nbytes + 64 for tensor in tensors) <= 8 << 20:  # one block
        assert places == sorted(places)
        assert all(gap < 64 for gap in gaps)
        assert places[0][0] % (2 << 20) == 0


def test_a_block_lives_as_long_as_a_tensor_in_it() -> None:
    memory = weight_memory.WeightMemory()
    first, second = memory.take(1000, torch.float32), memory.take(1000, torch.float32)
    first.fill_(1.0)
    second.fill_(2.0)
    block = weakref.ref(memory._block)
    del memory, first
    gc.collect()
    assert block() is not None
    assert bool((second == 2.0).all())

    del second
    gc.collect()
    assert block() is None


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_weights_packed_together_are_the_same(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(40, 72, generator=generator).to(dtype) for _ in range(3)]
    alone = [fused_blocks.pack_weight(weight, dtype) for weight in weights]
    with fused_blocks.packed_together():
        together = [fused_blocks.pack_weight(weight, dtype) for weight in weights]
    after = fused_blocks.pack_weight(weights[0], dtype)

    for a, b in zip(alone, together, strict=True):
        assert (a.columns, a.depth) == (b.columns, b.depth)
        assert torch.equal(a.data, b.data)
    size = -(-together[0].data.nbytes // 64) * 64
    addresses = [packed.data.data_ptr() for packed in together]
    assert addresses == [addresses[0] + i * size for i in range(3)]
    assert torch.equal(after.data, alone[0].data)
    assert not addresses[0] <= after.data.data_ptr() < addresses[0] + (8 << 20)
