"""What the trainer adds to a training step on a CPU: its loop against a bare one.

    python -m benchmarks.training_step              # Tiny 224x224 batch 8, about 8 minutes
    python -m benchmarks.training_step --steps 5    # a look

The trainer's loop trains as in a run: loader, seeds, mixup and CutMix, clipping, AdamW, sums of the
loss, progress, signals. After each of its steps comes a bare one: a model with the same weights and
an optimiser of the same kind, forward, loss, backward, step, on the same images and with the same
random numbers, without mixing and clipping. So the two are interleaved, and what else the machine
does slows both; on a busy machine the ratio of processor time is the steadier one. Images are ready
in memory: decoding is the loader's matter, which --dry-run measures.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, TensorDataset

from transnext_models import create_model
from transnext_models.training.checkpoint_writer import CheckpointWriter
from transnext_models.training.loaders import Batch, TrainingData
from transnext_models.training.loop import Pace, TrainingLoop
from transnext_models.training.mixing import BatchMixer
from transnext_models.training.module import ClassifierModule
from transnext_models.training.optimisation import build_optimizer
from transnext_models.training.random_numbers import seed_step
from transnext_models.training.recipes import get_recipe
from transnext_models.training.state import TrainingState
from transnext_models.training.steps import build_steps
from transnext_models.variants import find_checkpoint

__all__ = ["PairedSteps", "measure"]

_RECIPE = get_recipe("imagenet_224")
_WARM_UP = 2  # steps: allocations settle


class StoredImages(TrainingData):
    """Random images in memory, each in every batch, mixed as the recipe says."""

    num_classes = _RECIPE.num_classes

    def __init__(self, batch_size: int, size: int, batches: int) -> None:
        super().__init__(batch_size, workers=0, seed=0)
        images = torch.randn(batch_size, 3, size, size)
        labels = torch.randint(_RECIPE.num_classes, (batch_size,))
        stored = TensorDataset(images, labels)
        self.train_set = _Repeated(stored, batches)
        self.val_set = TensorDataset(images[:1], labels[:1])
        augmentation = _RECIPE.augmentation
        assert augmentation is not None
        self.mixer = BatchMixer(
            mixup=augmentation.mixup,
            cutmix=augmentation.cutmix,
            switch=augmentation.mixup_switch,
            smoothing=_RECIPE.label_smoothing,
            num_classes=_RECIPE.num_classes,
        )

    def training_samples(self) -> Dataset[Any]:
        return self.train_set

    def validation_samples(self) -> Dataset[Any]:
        return self.val_set

    def training_batch(self, loaded: Any) -> Batch:
        images, labels = loaded
        return images, labels

    validation_batch = training_batch

    def mixing_numbers(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.mixer.draw(*images.shape[-2:]),)

    def mix(self, images: Tensor, labels: Tensor, *numbers: Tensor) -> Batch:
        return self.mixer(images, labels, *numbers)


class _Repeated(Dataset[Any]):
    """A data set so many times over, by samples of an epoch."""

    def __init__(self, stored: TensorDataset, times: int) -> None:
        self._stored, self._times = stored, times

    def __len__(self) -> int:
        return len(self._stored) * self._times

    def __getitem__(self, sample: Any) -> Any:
        return self._stored[sample.image % len(self._stored)]


class PairedSteps:
    """A callback of the loop that takes a bare step after each of the trainer's, and times both.

    Attributes
    ----------
    trainer, bare : list[tuple[float, float]]
        Seconds of each pair's steps, and the processor's seconds in them.
    """

    def __init__(self, model: torch.nn.Module, mixer: BatchMixer) -> None:
        self.trainer: list[tuple[float, float]] = []
        self.bare: list[tuple[float, float]] = []
        self._model = copy.deepcopy(model).train()
        self._optimizer = build_optimizer(self._model, _RECIPE)
        self._mixer = mixer
        self._bare_done: tuple[float, float] | None = None

    def on_train_batch_end(
        self, loop: TrainingLoop, module: ClassifierModule, loss: Tensor, batch: Batch, index: int
    ) -> None:
        """Take the trainer's time since the last bare step, which its whole turn falls into."""
        now = _clocks()
        images, targets = self._mixer(*batch, self._mixer.draw(*batch[0].shape[-2:]))
        for group in self._optimizer.param_groups:
            group["lr"] = module.optimizer.param_groups[0]["lr"]
        seed_step(0, index, 0)  # drops the samples that the trainer's step has dropped
        self._mixer.draw(*images.shape[-2:])
        began = _clocks()
        F.cross_entropy(self._model(images).float(), targets).backward()
        self._optimizer.step()
        self._optimizer.zero_grad()
        done = _clocks()
        if self._bare_done is not None and index >= _WARM_UP:
            self.trainer.append(_passed(self._bare_done, now))
            self.bare.append(_passed(began, done))
        self._bare_done = _clocks()


def _clocks() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _passed(since: tuple[float, float], until: tuple[float, float]) -> tuple[float, float]:
    return until[0] - since[0], until[1] - since[1]


def measure(model_name: str, batch_size: int, size: int, steps: int) -> PairedSteps:
    """Train for so many steps, and return the times of those after the first few."""
    torch.manual_seed(0)
    variant, _ = find_checkpoint(model_name)
    rate = _RECIPE.drop_path.get(variant.name, variant.drop_path_rate)
    model = create_model(
        model_name, img_size=size, num_classes=_RECIPE.num_classes, drop_path_rate=rate
    )
    fabric = Fabric(accelerator="cpu", devices=1, precision="32-true")
    fabric.launch()
    data = StoredImages(batch_size, size, steps + _WARM_UP)
    module = ClassifierModule(model, _RECIPE, epochs=1)
    pairs = PairedSteps(model, data.mixer)
    wrapped = fabric.setup(model, module.optimizer)
    module.network = wrapped[0]
    state = TrainingState(fabric, model, module.optimizer, _RECIPE.ema_decay)
    data.shard(0, 1)
    work = build_steps(False, fabric, module, wrapped, data, accumulate=1)
    pace = Pace(1, 1, 1, None, None)
    writer = CheckpointWriter(_not_saved, in_background=False)
    TrainingLoop(fabric, module, work, data, state, pace, writer, [pairs]).fit()
    return pairs


def _not_saved(content: dict[str, Any], is_best: bool) -> None:
    """Write no checkpoint, which a run does between steps."""


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="transnext_tiny")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    pairs = measure(options.model, options.batch_size, options.size, options.steps)
    print(
        f"{options.model} {options.size}x{options.size} batch {options.batch_size}, "
        f"{torch.get_num_threads()} threads, {len(pairs.bare)} pairs of steps"
    )
    for clock, what in enumerate(("elapsed", "processor")):
        trainer = [step[clock] for step in pairs.trainer]
        bare = [step[clock] for step in pairs.bare]
        ratios = [ours / theirs for ours, theirs in zip(trainer, bare, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        print(
            f"{what} time: trainer {1e3 * statistics.median(trainer):.0f} ms, bare "
            f"{1e3 * statistics.median(bare):.0f} ms, ratio {middle:.3f} (median of the pairs; "
            f"half of them from {low:.3f} to {high:.3f})"
        )


if __name__ == "__main__":
    main()
