"""The model computes what the published implementation computed: values and gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import transnext_ops as ops
from golden_data import (
    FLOAT32_TOLERANCE,
    FLOAT64_TOLERANCE,
    GoldenCase,
    golden_loss_weights,
    load_case,
)
from transnext_models import TransNeXt, create_model

TOLERANCES = {torch.float64: FLOAT64_TOLERANCE, torch.float32: FLOAT32_TOLERANCE}
DTYPES = pytest.mark.parametrize("dtype", list(TOLERANCES), ids=["float64", "float32"])
DEVICES = pytest.mark.parametrize(
    "device", ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
)


@pytest.fixture(autouse=True)
def _exact_convolutions(monkeypatch):
    """cuDNN's float32 convolutions are TF32's by default."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)


def _build(name: str) -> tuple[GoldenCase, TransNeXt]:
    """The case and its model, whose float32 weights are exact in float64 too."""
    case = load_case(name)
    with torch.device("meta"):  # no initialisation that would be overwritten
        model = create_model(
            case.variant,
            img_size=case.img_size,
            pretrain_size=case.pretrain_size,
            fixed_pool_size=case.fixed_pool_size,
            position_bias=case.position_bias,
            features_only=case.kind == "det",
        )
    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    assert shapes == case.shapes
    assert sum(x.numel() for x in model.parameters()) == int(case.arrays["n_params"])
    weights = {key: torch.from_numpy(x) for key, x in case.state_dict().items()}
    model.load_state_dict(weights, assign=True)
    return case, model.requires_grad_().eval()


@pytest.fixture(
    scope="module", params=["micro_224", "tiny_448_pool7", "backbone_tiny_interp_224x288"]
)
def forward_case(request):
    return _build(request.param)


@pytest.fixture(scope="module")
def gradient_case():
    return _build("tiny_64_grads")


@DEVICES
@DTYPES
def test_maps_and_logits(forward_case, dtype, device):
    case, model = forward_case
    model = model.to(device, dtype)
    images = torch.from_numpy(case.images()).to(device, dtype)
    errors = {}
    with torch.no_grad():
        if case.kind == "det":
            maps = model(images)
        else:
            last, maps = model.forward_intermediates(images)
            errors["logits"] = case.relative_error("logits", model.forward_head(last).cpu().numpy())
            maps = [x.flatten(2).transpose(1, 2) for x in maps]
    errors |= {
        name: case.relative_error(name, x.cpu().numpy())
        for name, x in zip(case.map_names, maps, strict=True)
    }
    assert max(errors.values()) <= TOLERANCES[dtype], errors


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
@DEVICES
@DTYPES
def test_gradients_of_every_parameter_and_of_the_image(gradient_case, dtype, backend, device):
    if backend == "reference" and dtype == torch.float32:
        pytest.skip("the reference computes in float64 whatever it is given")
    case, model = gradient_case
    model = model.to(device, dtype)
    model.zero_grad()
    images = torch.from_numpy(case.images()).to(device, dtype).requires_grad_()
    with ops.use_backend(backend):
        logits = model(images)
        (logits * torch.from_numpy(golden_loss_weights()).to(logits)).sum().backward()
    assert case.relative_error("logits", logits.detach().cpu().numpy()) <= TOLERANCES[dtype]

    gradients = {name: x.grad for name, x in model.named_parameters()} | {"__input__": images.grad}
    assert sorted(gradients) == sorted(case.gradient_keys)
    zero = set(case.zero_gradient_keys)
    largest = case.arrays["grad_norms"].max()
    for row, name in enumerate(case.gradient_keys):
        gradient = gradients[name].double().cpu().numpy().ravel()
        if name in zero:
            assert np.abs(gradient).max() <= TOLERANCES[dtype] * largest, name
            continue
        scale = max(np.abs(gradient).max(), _weight_gradient(name, gradients))
        norm = case.arrays["grad_norms"][row]
        first = case.arrays["grad_first16"][row][: gradient.size]
        assert abs(np.linalg.norm(gradient) - norm) <= TOLERANCES[dtype] * max(norm, scale), name
        difference = np.abs(gradient[: first.size] - first).max()
        assert difference <= TOLERANCES[dtype] * scale, name


def _weight_gradient(name, gradients) -> float:
    """The largest gradient of a bias's weight, 0 for what is no bias.

    Both are sums of the same numbers, which cancel in the bias: its float32 rounding is that of
    the numbers, and depends on levels and threads.
    """
    weight = gradients.get(name.removesuffix("bias") + "weight") if name.endswith("bias") else None
    return 0.0 if weight is None else float(weight.abs().max())
