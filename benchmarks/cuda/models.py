"""Whole models on a device: the published formulation and this package's backends."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import transnext_ops as ops
from benchmarks.cuda.baselines import BACKENDS, Wanted
from benchmarks.published.arguments import published_arguments
from benchmarks.published.model import PublishedTransNeXt
from benchmarks.shapes.cases import Case
from transnext_models import TransNeXt, create_model


def steps(
    case: Case,
    device: torch.device,
    wanted: Wanted,
    report_failure: Callable[[Case, str, str], None],
) -> dict[str, Callable[[], object]]:
    """Return a step for every candidate that can run here; the others are reported.

    All have the published formulation's weights and must agree with it before they are timed.
    """
    torch.manual_seed(0)
    side = case.size[0]
    published = PublishedTransNeXt(**published_arguments(case.subject), img_size=side).to(device)
    images = torch.randn(case.batch, 3, *case.size, device=device)
    found: dict[str, Callable[[], object]] = {"published": _step(case, published, images)}
    with torch.inference_mode():
        expected = published.eval()(images[:2])
    for backend in BACKENDS:
        name = f"transnext_models {backend}"
        if not wanted(name):
            continue
        try:
            model = create_model(case.subject, img_size=side, backend=backend).to(device)
            model.load_state_dict(published.state_dict())
            with torch.inference_mode():
                actual = model.eval()(images[:2])
        except ops.BackendError as error:
            report_failure(case, name, str(error))
            continue
        error = float((actual - expected).norm() / expected.norm())
        if not error <= 1e-3:
            report_failure(case, name, f"its logits are off by {error:.1e}")
            continue
        found[name] = _step(case, model, images)
    return found


def _step(case: Case, model: nn.Module, images: Tensor) -> Callable[[], object]:
    dtype = getattr(torch, case.dtype)
    context = torch.autocast(images.device.type, dtype, enabled=dtype != torch.float32)

    def forward() -> object:
        with torch.inference_mode(), context:
            return model(images)

    def both() -> object:
        model.train().zero_grad()
        with context:
            loss: Tensor = model(images).float().sum()
        return loss.backward()

    if case.direction != "forward":
        return both
    model.eval()
    if isinstance(model, TransNeXt):
        model.freeze()  # on a GPU only a frozen model keeps its position biases
    return forward
