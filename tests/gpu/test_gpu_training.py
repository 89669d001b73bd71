"""A training step in CUDA graphs has the losses of the eager one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from small_model import small_model
from transnext_models.capture.recorders import CudaGraphs
from transnext_models.capture.step import CapturedStep
from transnext_models.training.mixing import BatchMixer

MIXER = BatchMixer(mixup=0.8, cutmix=1.0, switch=0.5, smoothing=0.1, num_classes=10)


class Step:
    """A step in float16 with a gradient scaler; the same for every instance."""

    def __init__(self, backend: str) -> None:
        torch.manual_seed(0)
        self.model = small_model(img_size=64, num_classes=10, backend=backend).cuda().float()
        self.parameters = list(self.model.parameters())
        rate = torch.tensor(1e-3, device="cuda")
        self.optimizer = torch.optim.AdamW(self.parameters, lr=rate, fused=True)
        self.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**10)

    def forward_backward(self, batch: tuple[torch.Tensor, ...]) -> torch.Tensor:
        images, targets = MIXER(*batch)
        with torch.autocast("cuda", torch.float16):
            logits = self.model(images)
        loss = torch.nn.functional.cross_entropy(logits.float(), targets)
        self.scaler.scale(loss).backward()
        return loss

    def optimise(self) -> None:
        self.scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.scaler.step(self.optimizer)
        self.scaler.update()


def batch(step: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator("cpu").manual_seed(step)
    np.random.seed(step)  # noqa: NPY002
    images = torch.randn(4, 3, 64, 64, generator=generator, device="cpu")
    labels = torch.randint(10, (4,), generator=generator, device="cpu")
    with torch.device("cpu"):
        numbers = MIXER.draw(64, 64)
    return images, labels, numbers


def test_replays_have_the_losses_of_eager_steps(backend, cuda) -> None:
    plain, recorded = Step(backend), Step(backend)
    step = CapturedStep(
        recorded.forward_backward, recorded.optimise, recorded.parameters, CudaGraphs()
    )
    for number in range(10):
        expected = plain.forward_backward(tuple(part.to(cuda) for part in batch(number)))
        plain.optimise()
        plain.optimizer.zero_grad()
        got = step.forward_backward(batch(number)).clone()
        step.optimise()
        assert float(got) == pytest.approx(expected.item(), rel=2e-2), number


def test_nothing_in_a_step_waits_for_the_device(backend, cuda) -> None:
    made = Step(backend)
    device_batch = tuple(part.to(cuda) for part in batch(0))
    for _ in range(2):  # what is built once may wait
        made.forward_backward(device_batch)
        made.optimise()
    torch.cuda.set_sync_debug_mode("error")
    try:
        made.forward_backward(device_batch)
        made.optimise()
    finally:
        torch.cuda.set_sync_debug_mode("default")
