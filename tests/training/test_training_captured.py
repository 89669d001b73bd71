"""A captured step: the losses of the eager one, without a wait for the device.

Recorded and replayed on a CPU (recorded_work.py); tests/gpu has CUDA graphs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recorded_work import RecordedWork, WaitForDevice
from training import short_runs
from training.short_runs import StopAfter, metrics, resumed
from transnext_models import create_model
from transnext_models.capture.step import CapturedStep
from transnext_models.training import parts, steps
from transnext_models.training.mixing import BatchMixer
from transnext_models.training.run import RunStopped, train

MIXER = BatchMixer(mixup=0.8, cutmix=1.0, switch=0.5, smoothing=0.1, num_classes=5)


class Step:
    """A model with what a step needs; the same for the same arguments."""

    def __init__(self, drop_path: float = 0.0, scaler: bool = False, rate: Any = 1e-3) -> None:
        torch.manual_seed(0)
        self.model = create_model(
            "transnext_pico", num_classes=5, img_size=32, drop_path_rate=drop_path
        ).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=rate, fused=True)
        self.scaler = torch.amp.GradScaler("cpu", enabled=scaler, init_scale=2.0**10)
        self.precision = torch.autocast("cpu", torch.bfloat16, enabled=scaler)

    @property
    def parameters(self) -> list[nn.Parameter]:
        return list(self.model.parameters())

    def forward_backward(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        images, targets = MIXER(*batch)
        with self.precision:
            logits = self.model(images)
        loss = F.cross_entropy(logits.float(), targets)
        self.scaler.scale(loss).backward()
        return loss

    def optimise(self) -> None:
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def batch(step: int) -> tuple[torch.Tensor, ...]:
    np.random.seed(step)  # noqa: NPY002
    torch.manual_seed(step)
    return torch.randn(4, 3, 32, 32), torch.randint(5, (4,)), MIXER.draw(32, 32)


def losses(run: Callable[[int], torch.Tensor], steps: int = 8) -> list[float]:
    return [float(run(step)) for step in range(steps)]


def eager(made: Step, accumulate: int = 1) -> list[float]:
    def run(step: int) -> torch.Tensor:
        loss = made.forward_backward(batch(step))
        if (step + 1) % accumulate == 0:
            made.optimise()
            made.optimizer.zero_grad()
        return loss.detach()

    return losses(run)


def captured(made: Step, recorder: RecordedWork, accumulate: int = 1) -> list[float]:
    step = CapturedStep(made.forward_backward, made.optimise, made.parameters, recorder)

    def run(number: int) -> torch.Tensor:
        loss = step.forward_backward(batch(number)).clone()
        if (number + 1) % accumulate == 0:
            step.optimise()
        return loss

    return losses(run)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("scaler", [False, True], ids=["float32", "scaled"])
def test_the_losses_of_the_eager_step(scaler: bool, accumulate: int) -> None:
    recorder = RecordedWork()
    ours = captured(Step(scaler=scaler), recorder, accumulate)
    assert recorder.recordings == 2
    tolerance = 2e-2 if scaler else 1e-5
    assert ours == pytest.approx(eager(Step(scaler=scaler), accumulate), rel=tolerance)


def test_random_numbers_are_drawn_anew_in_every_replay() -> None:
    ours = captured(Step(drop_path=0.5), RecordedWork())
    assert ours == pytest.approx(eager(Step(drop_path=0.5)), rel=1e-4)


def test_a_rate_in_a_tensor_acts_on_replays() -> None:
    def rates(made: Step, tensor: torch.Tensor | None, step: int) -> None:
        for group in made.optimizer.param_groups:
            group["lr"] = 1e-4 * (step + 1) if tensor is None else tensor.fill_(1e-4 * (step + 1))

    plain, rate = Step(), torch.tensor(0.0)
    recorded = Step(rate=rate)
    step = CapturedStep(
        recorded.forward_backward, recorded.optimise, recorded.parameters, RecordedWork()
    )
    for number in range(8):
        rates(plain, None, number)
        rates(recorded, rate, number)
        expected = plain.forward_backward(batch(number)).detach()
        plain.optimise()
        plain.optimizer.zero_grad()
        got = step.forward_backward(batch(number))
        step.optimise()
        assert float(got) == pytest.approx(float(expected), rel=1e-5)


def test_another_shape_is_refused() -> None:
    made = Step()
    step = CapturedStep(made.forward_backward, made.optimise, made.parameters, RecordedWork())
    step.forward_backward(batch(0))
    images, labels, numbers = batch(1)
    with pytest.raises(RuntimeError, match=r"one shape: got torch.float32 \[2, 3, 32, 32\], needs"):
        step.forward_backward((images[:2], labels[:2], numbers))


def test_a_wait_for_the_device_is_noticed() -> None:
    made = Step()

    def waits(parts: tuple[torch.Tensor, ...]) -> torch.Tensor:
        loss = made.forward_backward(parts)
        assert loss.item() > 0
        return loss

    step = CapturedStep(waits, made.optimise, made.parameters, RecordedWork())
    with pytest.raises(WaitForDevice):
        step.forward_backward(batch(0))


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: x[0].item(),
        lambda x: bool(x[0] > 0),
        lambda x: float(x[0]),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x.detach().numpy(),
        lambda x: np.asarray(x),
        lambda x: x.to("cpu"),
        lambda x: x.to(device="cpu"),
        lambda x: x.nonzero(),
        lambda x: x[x > 0],
        lambda x: x.masked_select(x > 0),
        lambda x: x.clone().__setitem__(x > 0, torch.ones(int(x.numel()))),
        lambda x: x.unique(),
        lambda x: torch.equal(x, x),
        lambda x: torch.where(x > 0),
        lambda x: x.repeat_interleave(torch.tensor([1, 2, 0])),
    ],
)
def test_every_way_to_wait_is_trapped(wait: Callable[[torch.Tensor], Any]) -> None:
    values = torch.tensor([1.0, -2.0, 3.0])
    recorder = RecordedWork()
    for use in (recorder.run, recorder.record):
        with pytest.raises(WaitForDevice):
            use(lambda: wait(values))


def test_what_does_not_wait_is_not_trapped() -> None:
    values, place = torch.tensor([1.0, -2.0, 3.0]), torch.tensor([2, 0])

    def work() -> None:
        values.to(torch.float64)
        values.to("cpu", non_blocking=True)
        values[place] = values.index_select(0, place)
        torch.where(values > 0, values, 0.0)

    RecordedWork().run(work)


def test_the_sum_over_processes_comes_between() -> None:
    made = Step()
    totals = []

    def sums(gradients: list[torch.Tensor]) -> None:
        (gradient,) = gradients
        totals.append(float(gradient.double().square().sum()))
        own = [each.grad for each in made.parameters if each.grad is not None]
        assert len(own) == len(made.parameters)
        assert sum(float(g.double().square().sum()) for g in own) == pytest.approx(totals[-1])

    step = CapturedStep(
        made.forward_backward, made.optimise, made.parameters, RecordedWork(), between=sums
    )
    for number in range(5):
        step.forward_backward(batch(number))
        step.optimise()
    assert len(totals) == 5
    assert min(totals) > 0


# -- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def as_if_captured(monkeypatch: pytest.MonkeyPatch) -> list[RecordedWork]:
    """Have runs on a CPU record their steps; returns the recorders of the runs."""
    recorders: list[RecordedWork] = []

    def recorder() -> RecordedWork:
        recorders.append(RecordedWork())
        return recorders[-1]

    monkeypatch.setattr(parts, "has_graphs", lambda device: True)
    monkeypatch.setattr(steps, "CudaGraphs", recorder)
    return recorders


def measured(folder: Path) -> list[float]:
    """Losses of a run, in the order of its epochs; not every epoch is validated."""
    names = ("train_loss", "val_loss")
    return [float(row[name]) for row in metrics(folder) for name in names if row[name]]


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_a_run_has_the_losses_of_the_eager_one(
    precision: str, tmp_path: Path, images: Path, as_if_captured: list[RecordedWork]
) -> None:
    chosen: dict[str, Any] = {"precision": precision, "fused": True}
    train(short_runs.images(tmp_path / "eager", images, **chosen))
    train(short_runs.images(tmp_path / "captured", images, **chosen, cuda_graphs=True))
    assert [each.recordings for each in as_if_captured] == [2]
    tolerance = 1e-4 if precision == "32-true" else 3e-2
    ours, expected = (measured(tmp_path / name) for name in ("captured", "eager"))
    assert ours == pytest.approx(expected, rel=tolerance)


def test_a_stopped_run_goes_on(
    tmp_path: Path, images: Path, as_if_captured: list[RecordedWork]
) -> None:
    """Its first steps are eager again: the same numbers, rounded otherwise."""
    train(short_runs.images(tmp_path / "whole", images, cuda_graphs=True))
    stopped = short_runs.images(tmp_path / "stopped", images, cuda_graphs=True)
    with pytest.raises(RunStopped):
        train(stopped, [StopAfter(6)])
    train(resumed(stopped))
    ours, expected = (measured(tmp_path / name) for name in ("stopped", "whole"))
    assert ours == pytest.approx(expected, rel=1e-4)


def test_a_device_without_graphs_is_refused(tmp_path: Path, images: Path) -> None:
    options = short_runs.images(tmp_path / "run", images, cuda_graphs=True)
    with pytest.raises(ValueError, match="--cuda-graphs: got a run on cpu, needs a CUDA device"):
        train(options)
    assert not options.output.exists()
