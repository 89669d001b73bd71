"""What a run would take: data read, a step taken at full size, speeds and memory; nothing written.

It takes less than a minute once the data set is listed and the model is compiled.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from lightning.fabric import Fabric
from torch.utils.data import IterableDataset, default_collate

from .assembly import Connected, assemble
from .classification import CLASSIFICATION
from .launch import plan_launch
from .loaders import TrainingData
from .options import CommonOptions
from .parts import quiet
from .random_numbers import seed_step
from .resuming import configuration_to_repeat
from .sampling import Sample
from .sources.streams import StreamedTraining
from .speed import duration, per_second
from .task import RunSettings, Task

__all__ = ["DryRun", "dry_run"]

_SECONDS = 8.0  # of each measurement
_MOST_STEPS = 20
_PER_CLASS = 2
_MOST_READ = 2000


@dataclass(frozen=True)
class DryRun:
    """What was found; speeds in images per second, of all processes together.

    Attributes
    ----------
    read : int
        Images read of both splits.
    loader, device, together : float
        Training batches loaded, trained on, and both as in a run.
    validation : float
        Validation batches on the device.
    memory, memory_available : int
        Bytes, the most in use on the first device (of the process without an accelerator), and what
        there is.
    seconds : float
        Of the whole run.
    """

    train_images: int
    val_images: int
    classes: int
    read: int
    model: str
    parameters: int
    trained_parameters: int
    img_size: int
    total_batch: int
    device_name: str
    processes: int
    workers: int
    epochs: int
    loader: float
    device: float
    together: float
    validation: float
    memory: int
    memory_available: int
    seconds: float

    @property
    def limit(self) -> str:
        """What limits the run, and what to do about it."""
        if self.loader > 1.1 * self.device:
            return "the device"
        cores, wanted = os.cpu_count() or 1, self.workers * self.processes
        needed = max(1, round(wanted * self.device / max(self.loader, 1e-9)))
        if wanted >= cores:
            return f"the loader: {wanted} processes on {cores} cores; more cores would help"
        return f"the loader: more --workers would help, up to {needed} for {cores} cores"

    def lines(self) -> list[str]:
        """Return the report."""
        rows = {
            "data": f"{self.train_images:,} training and {self.val_images:,} validation images in "
            f"{self.classes:,} classes; {self.read:,} read",
            "model": f"{self.model}, {self.img_size}×{self.img_size}, {self.parameters:,} "
            f"parameters, {self.trained_parameters:,} trained",
            "batch": f"{self.total_batch} images per step on {self.processes} × {self.device_name}",
            "memory": f"{self.memory / 2**30:.2f} GiB of {self.memory_available / 2**30:.1f}",
            "loader": f"{per_second(self.loader)} with {self.workers} processes per device",
            "device": per_second(self.device),
            "together": per_second(self.together),
            "validation": f"{per_second(self.validation)} on the device",
            "run": f"{self.epochs} epochs in {duration(self.seconds)}",
            "limit": self.limit,
        }
        return [f"{name}: {text}" for name, text in rows.items()]


def dry_run(options: CommonOptions, task: Task[Any, Any] = CLASSIFICATION) -> DryRun:
    """Try what a run with these options needs, and say what it would take.

    Raises
    ------
    ValueError, RuntimeError
        As `run.train`; also where a batch does not fit the memory of a device.
    """
    task.check_options(options)
    plan = plan_launch(options.devices, options.num_nodes)
    configuration = None if options.config is None else configuration_to_repeat(options.config)
    settings = task.settings(options, plan.processes, configuration)
    with quiet():
        assembly = assemble(task, options, settings, plan, None)
        connected = assembly.connect(options, settings, accumulate=1)
        with contextlib.closing(assembly.data):
            trial = _Trial(assembly.fabric, connected, assembly.data)
            try:
                return trial.measured(options, settings)
            except torch.OutOfMemoryError as error:
                raise RuntimeError(
                    f"--batch-size: got {settings.batch_size}, which does not fit the memory of "
                    f"{_device_name(assembly.fabric.device)}: lower it, and raise --accumulate"
                ) from error


class _Trial:
    """Measures on all processes at once, the same number of steps on each."""

    def __init__(self, fabric: Fabric, connected: Connected, data: TrainingData) -> None:
        self.fabric = fabric
        self.module, self.state = connected.module, connected.state
        self.steps = connected.steps
        self.data = data

    def measured(self, options: CommonOptions, settings: RunSettings) -> DryRun:
        """Return all that there is to know."""
        data, module = self.data, self.module
        read = self._read()
        batches = self._endless()
        images = data.batch_size * self.fabric.world_size
        loader = images / self._timed(lambda: data.training_batch(next(batches)))
        batch = data.training_batch(next(batches))
        module.set_rate(0)
        self.steps.set_rates()
        module.train()
        device = images / self._timed(lambda: self._step(batch))
        together = images / self._timed(lambda: self._step(data.training_batch(next(batches))))
        val_batch = data.validation_batch(next(data.val_batches()))
        val_images = data.count(val_batch) * self.fabric.world_size
        validation = val_images / self._timed(lambda: self._validate(val_batch))
        memory, available = _memory(self.fabric.device)
        trained = data.batches_of_steps(settings.accumulate) * images
        checked = self._validated(options)
        seconds_of_epoch = trained / together + checked / min(validation, loader)
        parameters = list(module.model.parameters())
        assert data.num_classes is not None
        return DryRun(
            train_images=len(data.train_set),  # type: ignore[arg-type]
            val_images=len(data.val_set),  # type: ignore[arg-type]
            classes=data.num_classes,
            read=read,
            model=settings.model_name,
            parameters=sum(x.numel() for x in parameters),
            trained_parameters=sum(x.numel() for x in parameters if x.requires_grad),
            img_size=settings.img_size,
            total_batch=settings.total_batch,
            device_name=_device_name(self.fabric.device),
            processes=self.fabric.world_size,
            workers=data.workers,
            epochs=settings.epochs,
            loader=loader,
            device=device,
            together=together,
            validation=validation,
            memory=memory,
            memory_available=available,
            seconds=settings.epochs * seconds_of_epoch,
        )

    def _read(self) -> int:
        """Read some images of each class of both splits; how many."""
        data, count = self.data, 0
        training, validation = data.training_samples(), data.validation_samples()
        train_length, val_length = len(data.train_set), len(data.val_set)  # type: ignore[arg-type]
        collate_training = data.collate_training or default_collate
        collate_validation = data.collate_validation or default_collate
        began = time.monotonic()
        # What can only be read in order is read by the loader.
        if not isinstance(training, (IterableDataset, StreamedTraining)):
            for index in _spread(data.training_labels(), train_length):
                if time.monotonic() - began > _SECONDS:
                    break
                sample = Sample(0, index % data.epoch_length, index)
                data.training_batch(collate_training([training[sample]]))
                count += 1
        if not isinstance(validation, IterableDataset):
            for index in _spread(None, val_length):
                if time.monotonic() - began > 2 * _SECONDS:
                    break
                data.validation_batch(collate_validation([validation[index]]))
                count += 1
        return count

    def _endless(self) -> Iterator[Any]:
        """Training batches as the loader gives them, epoch after epoch."""
        epoch = 0
        while True:
            yield from self.data.train_batches(epoch)
            epoch += 1

    def _step(self, batch: Any) -> None:
        """Take a whole optimiser step, averaged weights included."""
        seed_step(self.data.seed, self.state.global_step, self.fabric.global_rank)
        self.steps.add_batch(batch, ends_step=True)
        self.steps.optimise()
        self.state.step_done()

    @torch.no_grad()
    def _validate(self, batch: Any) -> None:
        measures = self.module.measures(self.state.evaluated.eval(), self.fabric)
        measures.add(self.fabric.to_device(batch))

    def _validated(self, options: CommonOptions) -> int:
        """Images of a validation on all processes."""
        images = len(self.data.val_set)  # type: ignore[arg-type]
        if options.limit_val_batches is not None:
            batch = self.data.validation_batch_size * self.fabric.world_size
            images = min(images, options.limit_val_batches * batch)
        return images

    def _timed(self, act: Callable[[], Any]) -> float:
        """Return the seconds of a call, on average after the first."""
        device = self.fabric.device

        def once(count: int) -> float:
            began = time.perf_counter()
            for _ in range(count):
                act()
            if device.type != "cpu":
                torch.accelerator.synchronize()
            return time.perf_counter() - began

        once(1)  # starts loading processes, chooses and compiles kernels
        second = once(1)
        count = min(_MOST_STEPS, int(_SECONDS / max(second, 1e-9)))
        # The processes step together, so they take the same number of steps.
        count = self.fabric.broadcast(count)
        return max(once(count) / count if count else second, 1e-9)


def _spread(labels: list[int] | None, length: int) -> list[int]:
    """Numbers of images to read: some of each class, or all over the data set."""
    if labels is None:
        return list(range(0, length, max(1, length // _MOST_READ)))[:_MOST_READ]
    seen: dict[int, int] = {}
    chosen = []
    for index, label in enumerate(labels):
        if seen.get(label, 0) < _PER_CLASS:
            seen[label] = seen.get(label, 0) + 1
            chosen.append(index)
    return chosen[:_MOST_READ]


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()


def _memory(device: torch.device) -> tuple[int, int]:
    """Return the most memory that was in use, and what there is, in bytes."""
    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory
        return torch.cuda.max_memory_allocated(device), total
    try:
        import resource
    except ImportError:  # Windows
        return 0, 0
    unit = 1 if sys.platform == "darwin" else 1024
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return used, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
