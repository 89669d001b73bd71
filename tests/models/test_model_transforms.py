"""A model under ``torch.func``: per-sample gradients, ensembles, tangents; none of it is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacfwd, jacrev, jvp, stack_module_state, vmap

import transnext_ops as ops
from small_model import images, small_model
from transnext_models import TransNeXt, create_model

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")
BACKENDS = [name for name in ops.available_backends() if name in ("torch", "cpp")]


def assert_close(actual: Any, expected: Any) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-8, atol=1e-10)


@pytest.fixture(params=["extrapolate", "interpolate"])
def model(request: pytest.FixtureRequest) -> TransNeXt:
    return small_model(backend="torch", position_bias=request.param, img_size=96)


def parameters(model: TransNeXt) -> dict[str, Tensor]:
    return {name: value.detach() for name, value in model.named_parameters()}


@pytest.mark.parametrize("training", [False, True])
def test_gradients_per_sample(model: TransNeXt, training: bool) -> None:
    model.train(training)
    x = images(64, batch=3)

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, weights, (image[None],)).square().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(parameters(model), x)
    for index in range(3):
        model.zero_grad()
        model(x[index : index + 1]).square().sum().backward()
        for name, parameter in model.named_parameters():
            assert_close(per_sample[name][index], parameter.grad)


def test_gradients_per_sample_with_stochastic_depth_and_dropout() -> None:
    rates = {"drop_path_rate": 0.5, "attn_drop_rate": 0.1, "proj_drop_rate": 0.1, "drop_rate": 0.1}
    model = small_model(backend="torch", **rates).train()

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, weights, (image[None],)).square().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0), randomness="different")
    gradients = per_sample(parameters(model), images(64, batch=2)[:1].expand(8, -1, -1, -1))
    head = gradients["head.weight"]
    assert head.isfinite().all()
    assert len(head.flatten(1).unique(dim=0)) > 1  # the same image, other samples dropped


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("recorded", [False, True])
def test_vmap_over_images(backend: str, recorded: bool) -> None:
    model = small_model(backend=backend)
    x = images(64, 96, batch=4)
    with torch.set_grad_enabled(recorded):
        expected = model(x)
        assert_close(vmap(lambda image: model(image[None])[0])(x), expected)
        assert_close(model(x), expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("frozen", [False, True])
def test_vmap_over_the_weights_of_an_ensemble(backend: str, frozen: bool) -> None:
    models = [small_model(backend=backend) for _ in range(3)]
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for model in models:
            for parameter in model.parameters():
                parameter.mul_(1 + 0.1 * torch.rand((), generator=generator, dtype=torch.float64))
    x = images(64)
    weights, buffers = stack_module_state(models)  # type: ignore[arg-type]
    skeleton = models[0].freeze() if frozen else models[0]
    with torch.no_grad():
        expected = torch.stack([model(x) for model in models])
        together = vmap(lambda w, b: functional_call(skeleton, (w, b), (x,)))(weights, buffers)
        assert_close(together, expected)
        assert_close(skeleton(x), expected[0])  # nothing of the others was kept


def test_jacobians_and_tangents(model: TransNeXt) -> None:
    x = images(32, batch=1)
    tangent = images(32, batch=1, seed=1)
    leaf = x.clone().requires_grad_()
    out = model(leaf)
    expected = torch.stack(
        [torch.autograd.grad(out[0, i], leaf, retain_graph=True)[0] for i in range(out.shape[1])]
    )
    assert_close(jacrev(model)(x)[0, :, 0], expected[:, 0])
    pushed = jvp(model, (x,), (tangent,))
    assert_close(pushed[0], out.detach())
    assert_close(pushed[1][0], (expected * tangent).flatten(1).sum(1))

    def brighter(by: Tensor) -> Tensor:
        return model(x + by)

    assert_close(jacfwd(brighter)(x.new_zeros(()))[0], expected.flatten(1).sum(1))


def test_tangents_of_weights_are_not_lost_and_not_kept(model: TransNeXt) -> None:
    """In evaluation without gradients, where tables are kept for the next call."""
    x = images(64)
    weights = parameters(model)
    name = "block1.0.attn.cpb_fc2.bias"
    direction = torch.ones_like(weights[name])
    step = 1e-6
    with torch.no_grad():
        expected = model(x)
        high, low = (
            functional_call(model, {**weights, name: weights[name] + sign * step}, (x,))
            for sign in (1, -1)
        )
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(weights[name], direction)
            out = functional_call(model, {**weights, name: dual}, (x,))
            tangent = forward_ad.unpack_dual(out).tangent
        assert_close(model(x), expected)
    torch.testing.assert_close(tangent, (high - low) / (2 * step), rtol=1e-5, atol=1e-8)


def test_a_compiled_backend_names_the_way_out() -> None:
    pytest.importorskip("transnext_ops._cpp")
    model = small_model(backend="cpp")
    x = images(64)

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, weights, (image[None],)).sum()

    for call in (
        lambda: vmap(grad(loss), in_dims=(None, 0))(parameters(model), x),
        lambda: jacrev(model)(x),
        lambda: jvp(model, (x,), (x,)),
    ):
        with pytest.raises(NotImplementedError, match=r"'cpp'.*use backend 'torch'"):
            call()
    model.set_backend("torch")
    assert len(vmap(grad(loss), in_dims=(None, 0))(parameters(model), x)["head.bias"]) == 2


def test_the_packaged_model() -> None:
    model = create_model("transnext_pico", backend="torch").eval()
    x = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def loss(weights: dict[str, Tensor], image: Tensor) -> Tensor:
        return functional_call(model, weights, (image[None],)).square().sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(parameters(model), x)
    model(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(per_sample[name].sum(0), parameter.grad, rtol=2e-3, atol=2e-4)
    with torch.no_grad():
        mapped = vmap(lambda image: model(image[None])[0])(x)
        torch.testing.assert_close(mapped, model(x), rtol=1e-4, atol=1e-5)
