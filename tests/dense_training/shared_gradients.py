"""The gradient of a batch of two images, by one process or by two of which each has an image.

    python tests/dense_training/shared_gradients.py RANK STORE FILE

is one of two processes; the first writes the gradients of all methods to FILE. Nothing that counts
is drawn at random: what is drawn depends on the process.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dense_training.small_models import DINO, MASK2FORMER, SMALL_MODELS
from transnext_models import create_model
from transnext_models.dense.published import KNOWN_DENSE_MODELS
from transnext_models.detection import Annotated
from transnext_models.segmentation import mask_losses

MODELS = {"dino": DINO.name, "mask2former": MASK2FORMER.name, "upernet": "upernet_transnext_pico"}
SIZE = (64, 64)
# The first image has two objects, the second one; and so have the label maps.
BOXES = ([[4.0, 6, 30, 40], [20, 30, 60, 62]], [[10.0, 10, 50, 30]])
CLASSES = ([0, 2], [1])


def gradient(method: str, rank: int | None = None) -> dict[str, Tensor]:
    """Return the gradient of the losses of both images, or of that of a process."""
    torch.manual_seed(0)
    with mock.patch.dict(KNOWN_DENSE_MODELS, SMALL_MODELS):
        model = create_model(MODELS[method], num_classes=3, img_size=64).eval()
    loss: nn.Module = _Loss(method, model)
    if rank is not None:
        loss = DistributedDataParallel(loss)
    images = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))
    mine = slice(None) if rank is None else slice(rank, rank + 1)
    with _nothing_drawn():
        loss(images[mine], _targets(method)[mine]).backward()
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


class _Loss(nn.Module):
    def __init__(self, method: str, model: Any) -> None:
        super().__init__()
        self.method, self.model = method, model

    def forward(self, images: Tensor, targets: Any) -> Tensor:
        losses = self.model.loss(images, targets)
        # Not those that differ, as published: Mask2Former's class loss is a weighted mean of each
        # process's queries, DINO's denoising queries are as many as its fullest image makes them.
        left_out = {"dino": "dn_loss", "mask2former": "loss_cls"}.get(self.method, "acc_seg")
        return torch.stack(
            [value * (left_out not in name) for name, value in losses.items() if "loss" in name]
        ).sum()


def _targets(method: str) -> Any:
    if method == "dino":
        return [
            Annotated(SIZE, torch.tensor(boxes), torch.tensor(classes))
            for boxes, classes in zip(BOXES, CLASSES, strict=True)
        ]
    labels = torch.full((2, *SIZE), 255)
    for image, (boxes, classes) in enumerate(zip(BOXES, CLASSES, strict=True)):
        for box, label in zip(boxes, classes, strict=True):
            left, top, right, bottom = map(int, box)
            labels[image, top:bottom, left:right] = label
    return labels


@contextmanager
def _nothing_drawn() -> Iterator[None]:
    """Have Mask2Former take the same points of every mask."""
    points = torch.rand(1, mask_losses.POINTS, 2, generator=torch.Generator().manual_seed(2))
    of_each = mock.patch.object(
        mask_losses, "uncertain_points", lambda logits, _: points.expand(len(logits), -1, -1)
    )
    with of_each, mock.patch.object(torch, "rand", return_value=points):
        yield


if __name__ == "__main__":
    number, store, file = int(sys.argv[1]), sys.argv[2], sys.argv[3]
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{store}", rank=number, world_size=2
    )
    found = {method: gradient(method, number) for method in MODELS}
    if number == 0:
        torch.save(found, file)
    torch.distributed.destroy_process_group()
