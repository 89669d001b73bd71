"""From a case and a candidate to the function that a worker times."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gemms.forward import build_gemms
from benchmarks.published.arguments import published_arguments
from benchmarks.published.model import PublishedTransNeXt
from benchmarks.roofline.bound import bound_step
from benchmarks.runner.operator_steps import build_operator
from benchmarks.runner.step import Step, autocast
from benchmarks.shapes.cases import DENSE_IMG_SIZE, Candidate, Case
from transnext_models import create_model


def load_libraries() -> None:
    """Bring the libraries' own code and threads into memory, so that no candidate pays for them."""
    x = torch.randn(1, 16, 32, 32, requires_grad=True)
    weight = torch.randn(16, 16, 3, 3)
    for layout in (torch.contiguous_format, torch.channels_last):
        y = nn.functional.conv2d(x.contiguous(memory_format=layout), weight, padding=1)
        (y.flatten(2).transpose(1, 2) @ torch.randn(16, 64)).sum().backward()


def build(case: Case, candidate: Candidate) -> Step:
    """Return the step of a candidate."""
    if candidate.code == "bound":
        return bound_step(case)
    if case.what == "operators":
        return build_operator(case, candidate)
    if candidate.code == "gemms":
        return build_gemms(case, candidate)
    return _model_step(case, candidate)


def build_model(case: Case, candidate: Candidate) -> nn.Module:
    """Return the candidate's model of a case, in training mode."""
    if candidate.code == "peer":
        import timm

        return timm.create_model(candidate.model)
    img_size = DENSE_IMG_SIZE if case.dense else case.size[0]
    if candidate.code == "ours":
        options: dict[str, Any] = {"img_size": img_size}
        if case.dense:
            options |= {"features_only": True, "position_bias": case.dense}
        return create_model(case.subject, **options)
    arguments = published_arguments(case.subject)
    return PublishedTransNeXt(**arguments, img_size=img_size, dense=case.dense or None)


def _model_step(case: Case, candidate: Candidate) -> Step:
    model = build_model(case, candidate)
    parameter_bytes = sum(p.numel() * p.element_size() for p in model.parameters())
    model.train(case.direction == "both")
    call = torch.compile(model) if candidate.compiled else model
    images = torch.randn(case.batch, 3, *case.size)

    def forward() -> object:
        with torch.inference_mode(), autocast(candidate):
            return call(images)

    def both() -> object:
        model.zero_grad()
        with autocast(candidate):
            loss: Tensor = call(images).float().sum()
        return loss.backward()

    return Step(forward if case.direction == "forward" else both, parameter_bytes)
