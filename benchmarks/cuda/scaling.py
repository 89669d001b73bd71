"""What a run on many GPUs takes, derived from measured steps; only its inputs are measured.

    python -m benchmarks.cuda.scaling        # the table of docs/guides/many-gpus.md

A step is its work on one GPU, taken as proportional to its images, and the sum of the gradients
over all GPUs behind it (docs/training.md: two CUDA graphs with the sum in between, so that nothing
hides it). The sum is a ring's: every GPU sends and receives 2 (n - 1) / n of the gradients, within
a machine over NVLink, between machines over one network card per GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

EPOCHS = 300
TRAIN_IMAGES = 1_281_167
IMAGE_BYTES = 147_897_477_120 / TRAIN_IMAGES  # the archive of ImageNet-1K's training images
GPUS_PER_MACHINE = 8
NVLINK = 450e9  # bytes per second and direction of an H200, NVIDIA's datasheet
NETWORK = 50e9  # bytes per second of a 400 Gbit/s card
IMAGES_PER_CORE = 294  # decoded and augmented per second at 224x224 on one core of a Zen 5 server
MEASURED_BATCH = 64


@dataclass(frozen=True)
class Trained:
    """A model with its measured step.

    Attributes
    ----------
    parameters : float
        Millions.
    step : float
        Seconds of a training step at 224x224, batch 64, float16, in CUDA graphs on an H200
        (docs/gpu.md).
    """

    name: str
    parameters: float
    step: float


MODELS = (Trained("Tiny", 28.3, 0.0435), Trained("Base", 89.7, 0.0958))


@dataclass(frozen=True)
class Plan:
    """A model on so many GPUs, each with so many images per step."""

    model: Trained
    gpus: int
    batch: int

    @property
    def compute(self) -> float:
        """Seconds of a step's work on one GPU."""
        return self.model.step * self.batch / MEASURED_BATCH

    @property
    def moved(self) -> float:
        """Bytes of float32 gradients that a GPU sends, and receives, in a step."""
        return 2 * (self.gpus - 1) / self.gpus * self.model.parameters * 1e6 * 4

    @property
    def communication(self) -> float:
        """Seconds in which these move at the full rate of the slowest link of the ring."""
        return self.moved / (NVLINK if self.gpus <= GPUS_PER_MACHINE else NETWORK)

    @property
    def images_per_second(self) -> float:
        """Of one GPU."""
        return self.batch / (self.compute + self.communication)

    @property
    def cores(self) -> float:
        """Cores that decode and augment for one GPU."""
        return self.images_per_second / IMAGES_PER_CORE

    @property
    def read(self) -> float:
        """Bytes per second that all GPUs together read from where the images are."""
        return self.images_per_second * self.gpus * IMAGE_BYTES

    @property
    def hours(self) -> float:
        """Of the steps of all epochs; validation, checkpoints and the start come on top."""
        steps = EPOCHS * (TRAIN_IMAGES // (self.gpus * self.batch))
        return steps * (self.compute + self.communication) / 3600


PLANS = tuple(
    Plan(model, gpus, batch)
    for model in MODELS
    for gpus, batch in ((8, 128), (32, 32), (256, 4), (256, 64))
)


def lines() -> Iterator[str]:
    """Yield the table's lines."""
    yield (
        "| model | GPUs | batch per GPU / total | work | sum of gradients | cores per GPU | "
        "read, all GPUs | 300 epochs |"
    )
    yield "| --- | --- | --- | --- | --- | --- | --- | --- |"
    for plan in PLANS:
        yield (
            f"| {plan.model.name} | {plan.gpus} | {plan.batch} / {plan.gpus * plan.batch:,} | "
            f"{1e3 * plan.compute:.1f} ms | {1e3 * plan.communication:.1f} ms, "
            f"{plan.moved / 1e6:.0f} MB | {plan.cores:.1f} | {plan.read / 1e9:.1f} GB/s | "
            f"{plan.hours:.1f} h |"
        )


if __name__ == "__main__":
    print("\n".join(lines()))
