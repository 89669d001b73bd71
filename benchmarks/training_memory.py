"""What of a training step's memory is the optimiser's, and what the images'.

    python -m benchmarks.training_memory     # the table of docs/guides/many-gpus.md

Counted on a CPU: the bytes that autograd keeps for the backward pass of one more image, in
bfloat16 under autocast, which has the same tensors as float16 on a GPU. Weights, gradients and both
moments are float32. No path is dropped: on GPUs those that are need
the same. Workspaces of kernels and what an allocator leaves unused come on top.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from unittest import mock

import torch

from transnext_models import create_model

__all__ = ["StepMemory", "lines", "measured"]

CASES = (("transnext_tiny", 224), ("transnext_base", 224), ("transnext_base", 384))
GPUS = 8
BATCH = 128


@dataclass(frozen=True)
class StepMemory:
    """Bytes of a training step on one GPU.

    Attributes
    ----------
    parameters : int
        Of the weights.
    image : int
        Kept for the backward pass of each image.
    """

    name: str
    img_size: int
    parameters: int
    image: int

    @property
    def state(self) -> int:
        """Weights, gradients and both moments."""
        return 4 * self.parameters

    @property
    def saved_by_sharding(self) -> int:
        """What each of `GPUS` spares that keeps only its share of the moments (ZeRO-1)."""
        return 2 * self.parameters * (GPUS - 1) // GPUS


def measured(name: str, img_size: int) -> StepMemory:
    """Count a model's bytes in training mode."""
    model = create_model(name, img_size=img_size, drop_path_rate=0.0).train()
    parameters = sum(each.numel() * each.element_size() for each in model.parameters())
    # What does not grow with the batch, casts of weights for instance, is in both. Some layers take
    # another way with the few tokens of one image.
    two, three = (_kept(model, img_size, batch) for batch in (2, 3))
    return StepMemory(name, img_size, parameters, three - two)


def _kept(model: torch.nn.Module, img_size: int, batch: int) -> int:
    """Bytes of all that autograd keeps of a forward pass, but for the weights themselves."""
    weights = {each.untyped_storage().data_ptr() for each in model.parameters()}
    storages: dict[int, tuple[int, torch.Tensor]] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            storages[storage.data_ptr()] = (storage.nbytes(), tensor)
        return tensor

    images = torch.zeros(batch, 3, img_size, img_size)
    with (
        torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16),
        # As on a GPU, whatever this processor can multiply.
        mock.patch("transnext_models.layers.convolution.pytorch_multiplies", return_value=True),
    ):
        logits = model(images)
    del logits
    return sum(size for size, _ in storages.values())


def lines(found: list[StepMemory]) -> Iterator[str]:
    """Yield the table."""
    yield "| model | image side | weights, gradients, moments | one image | 128 images | spared |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for each in found:
        spared = each.saved_by_sharding
        yield (
            f"| {each.name.removeprefix('transnext_').title()} | {each.img_size} "
            f"| {each.state / 1e9:.1f} GB | {each.image / 1e6:.0f} MB "
            f"| {BATCH * each.image / 1e9:.0f} GB "
            f"| {spared / 1e9:.1f} GB, {spared / each.image:.1f} images |"
        )


if __name__ == "__main__":
    print(*lines([measured(*case) for case in CASES]), sep="\n")
