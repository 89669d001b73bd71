"""Captured models and training steps: results of eager ones.

Recorded and replayed on a CPU (recorded_work.py); tests/gpu has CUDA graphs.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from recorded_work import RecordedWork, WaitForDevice
from transnext_models import create_model
from transnext_models.capture import CapturedModel, CapturedTraining, capture, capture_training


def pico(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    return create_model("transnext_pico", num_classes=5, img_size=32, **options)


def images(count: int = 2, height: int = 32, width: int = 32) -> torch.Tensor:
    return torch.randn(count, 3, height, width)


def checked(model: CapturedModel, x: torch.Tensor, **tolerance: float) -> None:
    torch.testing.assert_close(model(x), model.model(x), **tolerance)


@pytest.mark.parametrize("frozen", [False, True])
@torch.no_grad()
def test_outputs_of_the_model_at_any_shape(frozen: bool) -> None:
    model = pico().eval()
    if frozen:
        model.freeze()
    recorder = RecordedWork()
    captured = capture(model, recorder=recorder).eval()
    shapes = [(2, 32, 32), (1, 32, 32), (2, 48, 40)]
    for _ in range(5):
        for shape in shapes:
            checked(captured, images(*shape))
    assert recorder.recordings == len(shapes)


@torch.no_grad()
def test_autocast_and_layout_have_recordings_of_their_own() -> None:
    recorder = RecordedWork()
    captured = capture(pico().eval(), recorder=recorder).eval()
    for _ in range(4):
        x = images()
        checked(captured, x)
        checked(captured, x.to(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):  # the recorded layers are not the fused ones
            checked(captured, x, rtol=0, atol=0.02)
    assert recorder.recordings == 3


@torch.no_grad()
def test_recordings_are_bounded() -> None:
    recorder = RecordedWork()
    captured = capture(pico().eval(), graphs=2, recorder=recorder).eval()
    one, two, three = images(1), images(2), images(3)
    for x in [one] * 3 + [two] * 3 + [one] + [three] * 3:
        checked(captured, x)
    assert recorder.recordings == 3
    checked(captured, one)  # the one used last but for the newest
    for _ in range(3):
        checked(captured, two)
    assert recorder.recordings == 4


@torch.no_grad()
def test_an_output_is_not_overwritten() -> None:
    captured = capture(pico().eval(), recorder=RecordedWork()).eval()
    outputs = [captured(images()) for _ in range(6)]
    assert len({each.data_ptr() for each in outputs}) == 6
    before = outputs[-1].clone()
    captured(images())
    assert torch.equal(outputs[-1], before)


@torch.no_grad()
def test_several_outputs() -> None:
    captured = capture(pico(features_only=True).eval(), recorder=RecordedWork()).eval()
    for _ in range(4):
        x = images()
        torch.testing.assert_close(captured(x), captured.model(x))


@torch.no_grad()
def test_weights_edited_in_place_are_those_of_the_next_replay() -> None:
    recorder = RecordedWork()
    model = pico().eval()
    for module in model.modules():  # kept from the fused path, whose weights are packed ones
        module.register_forward_hook(lambda *_: None)
    captured = capture(model, recorder=recorder).eval()
    for _ in range(5):
        checked(captured, images())
        for parameter in model.parameters():
            parameter.mul_(1.01)
    assert recorder.recordings == 1


@pytest.mark.parametrize("change", ["load", "replace", "cast", "data"])
@torch.no_grad()
def test_changed_weights_are_recorded_anew(change: str) -> None:
    recorder = RecordedWork()
    model = pico().eval().freeze()
    captured = capture(model, recorder=recorder).eval()
    x = images()
    for _ in range(3):
        checked(captured, x)
    others = {name: value * 1.05 for name, value in model.state_dict().items()}
    if change == "load":
        model.load_state_dict(others)
        model.freeze()
    elif change == "replace":
        model.head.weight = nn.Parameter(model.head.weight + 1)
    elif change == "cast":
        model.double()
        x = x.double()
    else:
        model.head.weight.data = model.head.weight + 1
    for _ in range(4):
        checked(captured, x)
    assert recorder.recordings == 2


def test_gradients_and_training_are_those_of_the_model() -> None:
    recorder = RecordedWork()
    captured = capture(pico(), recorder=recorder)
    for _ in range(4):
        captured(images()).sum().backward()
    assert captured.model.head.weight.grad is not None
    with torch.no_grad():
        for _ in range(4):
            captured(images())
    assert recorder.recordings == 0


@torch.no_grad()
def test_on_a_cpu_the_model_is_called() -> None:
    model = pico().eval()
    captured = capture(model).eval()
    x = images()
    for _ in range(4):
        assert torch.equal(captured(x), model(x))


@pytest.mark.parametrize("graphs", [0, -1, 1.5, True, "4"])
def test_graphs_is_a_positive_int(graphs: Any) -> None:
    with pytest.raises(ValueError, match=r"graphs: got .*, needs an int of at least 1"):
        capture(pico(), graphs=graphs)
    with pytest.raises(ValueError, match=r"graphs: got .*, needs an int of at least 1"):
        capture_training(F.mse_loss, torch.optim.SGD(pico().parameters()), graphs=graphs)


# -- training -------------------------------------------------------------------------------------


class Training:
    """A model with its loss and optimiser; the same for the same arguments."""

    def __init__(self, scaled: bool, recorder: RecordedWork | None, graphs: int = 4) -> None:
        self.model = pico(drop_path_rate=0.1).train()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, fused=True)
        self.scheduler = torch.optim.lr_scheduler.ExponentialLR(self.optimizer, 0.8)
        self.precision = torch.autocast("cpu", torch.bfloat16, enabled=scaled)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10) if scaled else None
        self.step = capture_training(
            self.loss,
            self.optimizer,
            scaler=scaler,
            max_norm=1.0,
            graphs=graphs,
            recorder=recorder,
        )

    def loss(self, x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with self.precision:
            logits = self.model(x)
        return F.cross_entropy(logits.float(), labels)

    def losses(self, accumulate: int = 1) -> list[float]:
        found = []
        for number in range(10):
            torch.manual_seed(number)
            count = 2 + number % 2
            ends = (number + 1) % accumulate == 0
            found.append(self.step(images(count), torch.randint(5, (count,)), ends_step=ends))
            if ends:
                self.scheduler.step()
        return [float(each) for each in found]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("scaled", [False, True])
def test_losses_of_eager_steps(scaled: bool, accumulate: int) -> None:
    recorder = RecordedWork()
    ours = Training(scaled, recorder).losses(accumulate)
    assert recorder.recordings == 3  # two shapes and the optimiser's step
    expected = Training(scaled, None).losses(accumulate)
    assert ours == pytest.approx(expected, rel=2e-2 if scaled else 1e-4)


def test_shapes_beyond_the_bound_are_recorded_anew() -> None:
    recorder = RecordedWork()
    made = Training(False, recorder, graphs=2)
    for count in [1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 1, 1, 1, 1]:
        made.step(images(count), torch.zeros(count, dtype=torch.long))
    assert recorder.recordings == 5


def test_a_loss_that_waits_is_noticed() -> None:
    model = pico()

    def loss(x: torch.Tensor) -> torch.Tensor:
        value = model(x).sum()
        assert value.item() != 0
        return value

    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with pytest.raises(WaitForDevice):
        capture_training(loss, optimizer, recorder=RecordedWork())(images())


def test_what_cannot_be_captured_is_named() -> None:
    model = pico()

    def of(optimizer: torch.optim.Optimizer, **options: Any) -> CapturedTraining:
        return capture_training(model, optimizer, recorder=RecordedWork(), **options)

    with pytest.raises(ValueError, match=r"got AdamW, whose step waits .* needs fused=True or cap"):
        of(torch.optim.AdamW(model.parameters()))
    with pytest.raises(ValueError, match=r"needs fused=True with scaler"):
        of(
            torch.optim.AdamW(model.parameters(), capturable=True),
            scaler=torch.amp.GradScaler("cpu"),
        )
    with pytest.raises(ValueError, match=r"got parameters on cpu, meta, needs all on one device"):
        of(torch.optim.SGD([*model.parameters(), torch.empty(1, device="meta")], fused=False))
    with pytest.raises(ValueError, match=r"loss: got \[2, 5\], needs .* a tensor of shape \[\]"):
        of(torch.optim.AdamW(model.parameters(), fused=True))(images())
