"""What timm asks of every model it has: the documented behaviour that its own suite checks, by the
names and calls that it uses, on models that timm builds."""

from __future__ import annotations

import math

import pytest
import timm
import torch
import torch.fx
from timm.models import FeatureInfo
from timm.models._features_fx import (
    create_feature_extractor,
    get_notrace_functions,
    get_notrace_modules,
)
from torchvision.models import feature_extraction as torchvision_fx

import transnext_models  # noqa: F401  registers the models

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")

MODELS = ["transnext_pico", "transnext_micro", "transnext_tiny", "transnext_micro_AAAA"]
# Tiny has Micro's parts, and more of them.
MARKS = {
    "transnext_micro": [pytest.mark.slow],
    "transnext_tiny": [pytest.mark.slow, pytest.mark.long],
    "transnext_micro_AAAA": [pytest.mark.slow],
}
WITH_LARGE = [pytest.param(name, marks=MARKS.get(name, [])) for name in MODELS]


def images(side, batch=1):
    return torch.randn(batch, 3, side, side, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", WITH_LARGE)
def test_forward(name):
    model = timm.create_model(name, pretrained=False).eval()
    with torch.no_grad():
        outputs = model(images(64, batch=2))
    assert outputs.shape == (2, model.num_classes)
    assert outputs.isfinite().all()


@pytest.mark.parametrize("name", WITH_LARGE)
def test_backward(name):
    model = timm.create_model(name, pretrained=False, num_classes=42)
    parameters = dict(model.named_parameters())
    model.train()
    outputs = model(images(64, batch=2))
    assert outputs.shape[-1] == 42
    outputs.mean().backward()
    without = [name for name, parameter in parameters.items() if parameter.grad is None]
    assert not without
    assert all(parameter.grad.isfinite().all() for parameter in parameters.values())


@pytest.mark.parametrize("name", WITH_LARGE)
def test_default_config(name):
    model = timm.create_model(name, pretrained=False).eval()
    config, names = model.default_cfg, model.state_dict().keys()
    assert model.num_features > 0
    assert model.head_hidden_size > 0
    size = config["input_size"]
    x = torch.randn(1, *size)
    with torch.no_grad():
        features = model.forward_features(x)
        pre_logits = model.forward_head(features, pre_logits=True)
        assert features.shape[2:] == config["pool_size"]
        assert features.shape[1] == model.num_features
        assert pre_logits.shape == (1, model.head_hidden_size)
        model.reset_classifier(0)
        assert model.num_classes == 0
        assert model(x).shape == pre_logits.shape
        bare = timm.create_model(name, pretrained=False, num_classes=0).eval()
        assert bare.num_classes == 0
        assert bare(x).shape == (1, bare.num_features)
    assert f"{config['classifier']}.weight" in names
    assert f"{config['first_conv']}.weight" in names


def test_every_weight_of_every_model_has_a_whole_config():
    for name in timm.list_models("transnext_*"):
        for tagged in timm.models.list_pretrained(f"{name}.*") or [name]:
            config = timm.models.get_pretrained_cfg(tagged)
            side = config.input_size[1]
            assert config.pool_size == (math.ceil(side / 32),) * 2
            assert config.num_classes
            assert config.mean
            assert config.crop_pct


@pytest.mark.parametrize("name", WITH_LARGE)
@pytest.mark.parametrize("options", [{}, {"feature_cls": "getter"}], ids=["default", "getter"])
def test_features(name, options):
    model = timm.create_model(name, pretrained=False, features_only=True, **options).eval()
    channels, reductions = model.feature_info.channels(), model.feature_info.reduction()
    with torch.no_grad():
        maps = model(images(96, batch=2))
    assert len(maps) == len(channels) == 4
    for channel, reduction, feature_map in zip(channels, reductions, maps, strict=True):
        assert feature_map.shape == (2, channel, *(math.ceil(96 / reduction),) * 2)
        assert not feature_map.isnan().any()


@pytest.mark.parametrize("name", WITH_LARGE)
def test_intermediates(name):
    model = timm.create_model(name, pretrained=False).eval()
    info = FeatureInfo(model.feature_info, len(model.feature_info))
    x = images(96, batch=2)
    with torch.no_grad():
        last, maps = model.forward_intermediates(x, output_fmt="NCHW")
        assert torch.allclose(last, model.forward_features(x))
    for channel, reduction, feature_map in zip(
        info.channels(), info.reduction(), maps, strict=True
    ):
        assert feature_map.shape == (2, channel, *(math.ceil(96 / reduction),) * 2)
    model.set_grad_checkpointing()
    checkpointed, _ = model.forward_intermediates(x, output_fmt="NCHW")
    assert torch.allclose(last, checkpointed, rtol=1e-4, atol=1e-5)


# torch.fx ----------------------------------------------------------------------------------------


def extractor_as_timm_makes_it(model, train):
    """The last node of the model, in both modes, by torchvision's extractor with timm's leaves."""
    options = {
        "leaf_modules": get_notrace_modules(),
        "autowrap_functions": get_notrace_functions(),
        "param_shapes_constant": True,
    }
    train_nodes, eval_nodes = torchvision_fx.get_graph_node_names(model, tracer_kwargs=options)
    return torchvision_fx.create_feature_extractor(
        model,
        train_return_nodes=[train_nodes[-1]],
        eval_return_nodes=[eval_nodes[-1]],
        tracer_kwargs=options,
    ).train(train)


@pytest.mark.parametrize("name", WITH_LARGE)
def test_fx_forward(name):
    model = timm.create_model(name, pretrained=False).eval()
    traced = extractor_as_timm_makes_it(model, train=False)
    with torch.no_grad():
        for side in (64, 96):  # a graph holds for every size
            (output,) = traced(images(side)).values()
            assert torch.allclose(output, model(images(side)), atol=1e-4)


@pytest.mark.parametrize("name", WITH_LARGE)
def test_fx_backward(name):
    model = timm.create_model(name, pretrained=False, num_classes=42).train()
    traced = extractor_as_timm_makes_it(model, train=True)
    (output,) = traced(images(64, batch=2)).values()
    assert output.shape[-1] == 42
    output.mean().backward()
    assert all(parameter.grad is not None for parameter in traced.parameters())


@pytest.mark.parametrize("backend", [None, "torch"])
@pytest.mark.parametrize("options", [{}, {"fixed_pool_size": 1}, {"position_bias": "interpolate"}])
def test_symbolic_traces_of_every_mode(backend, options):
    model = timm.create_model("transnext_pico", backend=backend, **options).eval()
    traced = torch.fx.symbolic_trace(model)
    called = {node.target for node in traced.graph.nodes if node.op == "call_module"}
    layers = {n for n, m in model.named_modules() if m._parameters and not list(m.children())}
    attention = {name for name, _ in model.named_modules() if name.endswith(".attn")}
    assert called >= layers - attention
    with torch.no_grad():
        for side in (64, 65, 96):
            expected = model(images(side, batch=2))
            torch.testing.assert_close(
                traced(images(side, batch=2)), expected, rtol=1e-4, atol=1e-4
            )


@pytest.mark.parametrize("extract", [create_feature_extractor, None], ids=["timm", "torchvision"])
def test_features_by_the_names_of_nodes(extract):
    model = timm.create_model("transnext_pico").eval()
    last = {i: len(getattr(model, f"block{i}")) - 1 for i in (1, 3)}
    nodes = [f"block1.{last[1]}", f"block3.{last[3]}.mlp.fc1", "block3.0.attn.q", "norm2"]
    x, seen = images(64), []
    handles = [
        model.get_submodule(node).register_forward_hook(lambda *args: seen.append(args[2]))
        for node in nodes
    ]
    with torch.no_grad():
        model(x)
        for handle in handles:
            handle.remove()
        if extract is None:
            found = torchvision_fx.create_feature_extractor(model, nodes)(x)
            found = [found[node] for node in nodes]
        else:
            found = list(extract(model, nodes)(x).values())
    by_name = {tuple(tensor.shape): tensor for tensor in seen}
    assert len(found) == len(nodes)
    for tensor in found:
        torch.testing.assert_close(tensor, by_name[tuple(tensor.shape)], rtol=1e-4, atol=1e-4)
