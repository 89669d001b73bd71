"""Captured models in CUDA graphs have the outputs of eager ones; so have training steps."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from small_model import small_model
from transnext_models.capture import capture, capture_training


@pytest.mark.parametrize("frozen", [False, True])
@torch.no_grad()
def test_outputs_are_those_of_the_model(backend, cuda, frozen: bool) -> None:
    torch.manual_seed(0)
    model = small_model(img_size=64, num_classes=10, backend=backend).to(cuda).float().eval()
    if frozen:
        model.freeze()
    captured = capture(model).eval()
    for _ in range(5):
        for size in ((2, 64, 64), (1, 64, 64), (2, 96, 64)):
            x = torch.randn(size[0], 3, *size[1:], device=cuda)
            with torch.autocast("cuda", torch.float16):
                torch.testing.assert_close(captured(x), model(x), rtol=0, atol=1e-2)
    model.load_state_dict({name: value * 1.05 for name, value in model.state_dict().items()})
    for _ in range(4):
        torch.testing.assert_close(captured(x), model(x), rtol=1e-3, atol=1e-3)


def test_losses_are_those_of_eager_steps(backend, cuda) -> None:
    def losses(captured: bool) -> list[float]:
        torch.manual_seed(0)
        model = small_model(img_size=64, num_classes=10, backend=backend).to(cuda).float().train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)

        def loss(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            with torch.autocast("cuda", torch.float16):
                logits = model(x)
            return F.cross_entropy(logits.float(), labels)

        def eager(x: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
            optimizer.zero_grad()
            value = loss(x, labels)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            return value.detach()

        step = capture_training(loss, optimizer, max_norm=1.0) if captured else eager
        found = []
        for number in range(10):
            generator = torch.Generator(cuda).manual_seed(number)
            x = torch.randn(4, 3, 64, 64, device=cuda, generator=generator)
            found.append(step(x, torch.arange(4, device=cuda)))
        return [float(each) for each in found]

    assert losses(True) == pytest.approx(losses(False), rel=1e-2)
