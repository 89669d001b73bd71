"""Run lengths of parts of images, and what the network found in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from transnext_models.dense.run_lengths import RunLengths
from transnext_models.detection import Detections
from transnext_models.detection.box_head import BoxHead
from transnext_models.detection.mask_head import paste_masks


@st.composite
def parts(draw):
    """A bitmap, and where it is in an image."""
    height, width = (draw(st.integers(1, 9)) for _ in range(2))
    top, left = draw(st.integers(0, height)), draw(st.integers(0, width))
    size = draw(st.integers(0, height - top)), draw(st.integers(0, width - left))
    generator = np.random.default_rng(draw(st.integers(0, 999)))
    part = generator.random(size) < draw(st.sampled_from([0.0, 0.3, 0.7, 1.0]))
    return part, (top, left), (height, width)


@settings(max_examples=300, deadline=None)
@given(parts(), st.data())
def test_run_lengths_of_parts_and_parts_of_run_lengths(case, data) -> None:
    part, (top, left), size = case
    whole = np.zeros(size, np.uint8)
    whole[top : top + part.shape[0], left : left + part.shape[1]] = part

    runs = RunLengths.of_part(part, (top, left), size)

    flat = whole.T.reshape(-1)
    changes = np.flatnonzero(np.diff(flat, prepend=0))
    assert runs.counts.tolist() == np.diff([0, *changes, flat.size]).tolist()
    assert runs.area == whole.sum()
    assert (runs.bitmap() == whole).all()
    assert all(count > 0 for count in runs.counts[1:])
    rows, columns = (
        sorted(data.draw(st.tuples(st.integers(0, side), st.integers(0, side)))) for side in size
    )
    found = runs.part(tuple(rows), tuple(columns))
    assert (found == whole[slice(*rows), slice(*columns)]).all()


def test_masks_that_are_not_pasted_give_the_same_run_lengths() -> None:
    torch.manual_seed(0)
    size = (60, 80)
    corners = torch.rand(20, 2) * torch.tensor([70.0, 50.0])
    boxes = torch.cat([corners - 5, corners + torch.rand(20, 2) * 40], 1)
    boxes[3, 2] = boxes[3, 0]  # no width
    boxes[4] = torch.tensor([200.0, 200, 210, 210])  # outside
    masks = torch.rand(20, 28, 28)
    scores, labels = torch.rand(20), torch.arange(20)

    pasted = Detections(boxes, scores, labels, paste_masks(masks, boxes, size))
    found = Detections(boxes, scores, labels, masks).found("a.png", size)

    assert found.image_id == "a.png"
    assert np.array_equal(found.boxes, boxes.numpy())
    for one, other in zip(found.masks, pasted.found("a.png", size).masks, strict=True):
        assert one.size == other.size == size
        assert one.counts.tolist() == other.counts.tolist()


def test_outputs_that_are_not_finite_are_found() -> None:
    head = BoxHead(3, channels=8)
    logits = torch.full((5, 4), torch.nan)
    found = head.detections(logits, torch.zeros(5, 12), torch.ones(5, 4), (32, 32))
    assert len(found.boxes) == len(found.labels) == 1
    with pytest.raises(ValueError, match=r"not finite for image 7: damaged weights"):
        found.found(7, (32, 32))
    logits = torch.tensor([[0.0, 0, 0, 100]]).expand(5, 4)  # all background
    assert not len(head.detections(logits, torch.zeros(5, 12), torch.ones(5, 4), (32, 32)).scores)
