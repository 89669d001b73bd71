"""Every layer that is in the model is a layer: what is attached or put in its place acts."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import nn

from models.layer_calls import (
    BLOCK,
    CONVOLUTIONS,
    LAYERS,
    LINEARS,
    NORMS,
    assert_is_called,
    replace,
    run,
)
from small_model import images, small_model
from transnext_models.layers import AggregatedAttention, ConvolutionalGLU, DropPath

MODES = [(True, True), (False, True), (False, False)]  # training, gradients


def modules_with_a_forward(model):
    containers = (nn.ModuleList, type(model))
    return [n for n, m in model.named_modules() if not isinstance(m, containers)]


@pytest.mark.parametrize(("training", "gradients"), MODES)
@pytest.mark.parametrize("kind", ["forward", "pre"])
def test_a_hook_on_any_module_fires_once(training, gradients, kind):
    model = small_model(depths=(1, 1, 1, 1), drop_path_rate=0.1).train(training)
    for name in modules_with_a_forward(model):
        seen, module = [], model.get_submodule(name)
        register = (
            module.register_forward_hook if kind == "forward" else module.register_forward_pre_hook
        )
        with register(lambda *_, seen=seen: seen.append(1)):
            run(model, gradients=gradients)
        # Keys and values come from tokens and from pooled tokens; dropout is used twice in a GLU.
        twice = name.endswith((".kv", ".mlp.drop", ".drop_path"))
        assert len(seen) == 1 + twice, name


@pytest.mark.parametrize("training", [True, False])
def test_a_backward_hook_on_any_module_fires(training):
    model = small_model(depths=(1, 1, 1, 1)).train(training)
    x = images().requires_grad_()
    # Tables of coordinates ask for no gradient, so PyTorch itself calls no hook with their inputs.
    for name in modules_with_a_forward(model):
        seen = []
        handle = model.get_submodule(name).register_full_backward_hook(
            lambda *_, seen=seen: seen.append(1)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(x).sum().backward()
        handle.remove()
        assert seen, name


@pytest.mark.parametrize("name", LAYERS)
def test_what_a_hook_returns_is_taken(name):
    model = small_model()
    expected = copy.deepcopy(model)
    layer = expected.get_submodule(name)
    with torch.no_grad():
        layer.weight *= 1.5
        layer.bias *= 1.5
    with model.get_submodule(name).register_forward_hook(lambda _, __, output: 1.5 * output):
        for gradients in (True, False):
            torch.testing.assert_close(run(model, gradients=gradients), run(expected))


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("how", ["subclass", "wrapper", "instance", "class", "compiled"])
def test_a_layer_that_is_not_pytorchs_own_is_called(monkeypatch, name, how):
    model = small_model()
    layer = model.get_submodule(name)
    kind = type(layer)

    def forward(self, x):
        return relu_added(kind_forward(self, x))

    kind_forward = kind.forward
    if how == "subclass":
        layer.__class__ = type("WithRelu", (kind,), {"forward": forward})
    elif how == "wrapper":
        replace(model, name, WithRelu(layer))
    elif how == "instance":
        layer.forward = lambda x: relu_added(kind_forward(layer, x))
    elif how == "class":
        monkeypatch.setattr(kind, "forward", forward)
    else:
        # As Module.compile() leaves a layer.
        layer._compiled_call_impl = lambda x: relu_added(kind_forward(layer, x))
    expected = run(model, gradients=True)
    torch.testing.assert_close(run(model), expected)
    monkeypatch.undo()
    assert not torch.allclose(expected, run(small_model()))


def relu_added(x):
    """Something that no LayerNorm undoes."""
    return x + x.relu()


class WithRelu(nn.Module):
    def __init__(self, base):
        super().__init__()
        self.base = base

    def forward(self, x):
        return relu_added(self.base(x))


@pytest.mark.parametrize("name", NORMS)
def test_the_epsilon_of_a_norm_counts(name):
    model = small_model()
    run(model)
    model.get_submodule(name).eps = 0.5
    assert_is_called(model, [name])


@pytest.mark.parametrize("name", CONVOLUTIONS[0::2])
@pytest.mark.parametrize(
    ("attribute", "value"),
    [("padding_mode", "circular"), ("dilation", (2, 2)), ("padding_mode", "reflect")],
)
def test_a_convolutions_attributes_count(name, attribute, value):
    model = small_model()
    layer = model.get_submodule(name)
    setattr(layer, attribute, value)
    if attribute == "dilation":
        layer.padding = (2, 2)
    else:
        pads = tuple(side for side in reversed(layer.padding) for _ in range(2))
        layer._reversed_padding_repeated_twice = pads
    assert_is_called(model, [name])


def test_another_convolution_in_the_place_of_one_is_used():
    model = small_model()
    model.block1[0].mlp.dwconv.dwconv = nn.Conv2d(16, 16, 5, padding=2, groups=16).double()
    model.block2[0].attn.sr = nn.Conv2d(16, 16, 3, padding=1, stride=2).double()
    assert_is_called(model, ["block1.0.mlp.dwconv.dwconv", "block2.0.attn.sr"])


@pytest.mark.parametrize(
    "name", ["attn.proj_drop", "mlp.drop", "drop_path", "attn", "mlp", "norm1"]
)
def test_another_module_in_the_place_of_any_is_used(name):
    class Scale(nn.Module):
        def __init__(self, base):
            super().__init__()
            self.base = base

        def forward(self, *inputs):
            return 0.1 * self.base(*inputs)

    model = small_model()
    replace(model, f"{BLOCK}.{name}", Scale(model.get_submodule(f"{BLOCK}.{name}")))
    expected = run(model, gradients=True)
    torch.testing.assert_close(run(model), expected)
    assert not torch.allclose(expected, run(small_model()))


def test_a_subclass_of_attention_or_mixer_is_called():
    class Half(AggregatedAttention):
        def pool(self, x, grids):
            return 0.5 * super().pool(x, grids)

    class Third(ConvolutionalGLU):
        def _forward(self, x, grid):
            return super()._forward(x, grid) / 3

    for part, kind in (("attn", Half), ("mlp", Third)):
        model = small_model()
        getattr(model.block1[0], part).__class__ = kind
        expected = run(model, gradients=True)
        torch.testing.assert_close(run(model), expected)
        assert not torch.allclose(expected, run(small_model()))


@pytest.mark.parametrize("name", ["attn.proj_drop", "mlp.drop", "drop_path"])
def test_dropout_put_back_to_training_drops(name):
    """Monte Carlo dropout."""
    model = small_model(proj_drop_rate=0.3, drop_path_rate=0.3)
    first = run(model)
    assert torch.equal(run(model), first)
    model.block3[1].get_submodule(name).train()
    assert len({run(model).numpy().tobytes() for _ in range(12)}) > 1


@pytest.mark.parametrize("name", [*LINEARS, *CONVOLUTIONS])
def test_a_layer_without_bias(name):
    model = small_model()
    model.get_submodule(name).bias = None
    assert_is_called(model, [name])


@pytest.mark.parametrize("name", [f"{BLOCK}.attn.q", f"{BLOCK}.mlp.fc2"])
def test_sparse_weights(name):
    model = small_model()
    layer = model.get_submodule(name)
    with torch.no_grad():
        layer.weight[:, ::2] = 0
        expected = run(model)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer.weight = nn.Parameter(layer.weight.to_sparse_csr(), requires_grad=False)
    for gradients in (True, False):
        torch.testing.assert_close(run(model, gradients=gradients), expected)


def test_weights_of_another_memory_format():
    model = small_model()
    expected = run(model)
    model.to(memory_format=torch.channels_last)
    for gradients in (True, False):
        torch.testing.assert_close(run(model, gradients=gradients), expected)


def test_weights_that_do_not_fit_give_pytorchs_error_with_and_without_gradients():
    model = small_model()
    fc2 = model.block2[0].mlp.fc2
    fc2.weight = nn.Parameter(fc2.weight[:, :-1].detach())
    for gradients in (True, False):
        with pytest.raises(RuntimeError, match=r"shape|size"):
            run(model, gradients=gradients)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_images_of_another_type_than_the_weights_are_refused_alike(dtype):
    model = small_model().float()
    for gradients in (True, False):
        with pytest.raises(RuntimeError, match=r"type|dtype"):
            run(model, images().to(dtype), gradients)


def test_functional_calls_reach_every_layer():
    model = small_model()
    run(model)
    weights = {name: 0.5 * value for name, value in model.state_dict().items()}
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    torch.func.functional_call(model, leaves, (images(),)).sum().backward()
    assert all(leaf.grad is not None for leaf in leaves.values())
    with torch.no_grad():
        actual = torch.func.functional_call(model, weights, (images(),))
    model.load_state_dict(weights)
    torch.testing.assert_close(actual, run(model))


def test_a_global_hook_sees_every_layer():
    model, seen = small_model(depths=(1, 1, 1, 1)), set()
    names = {module: name for name, module in model.named_modules()}
    with torch.nn.modules.module.register_module_forward_hook(
        lambda module, *_: seen.add(names[module])
    ):
        run(model)
    assert seen >= set(modules_with_a_forward(model))


def test_setting_a_default_device_keeps_the_fused_path():
    model = small_model()
    expected = run(model)
    kept = model.block1[0].derived
    kept.clear()
    with torch.device("cpu"):
        assert torch.equal(run(model), expected)
    assert len(kept) == 1


def test_the_mixers_arguments_are_those_of_the_published_class():
    assert ConvolutionalGLU(64, 256).fc2.in_features == 170
    assert ConvolutionalGLU(64).fc2.in_features == 42
    wider = ConvolutionalGLU(64, 96, 48)
    assert wider.fc2.out_features == 48
    assert wider(torch.zeros(2, 12, 64), (3, 4)).shape == (2, 12, 48)
    with pytest.raises(TypeError, match=r"hidden_features: got 8\.0, needs an int"):
        ConvolutionalGLU(64, 8.0)
    with pytest.raises(ValueError, match="in_features: got 0, needs at least 1"):
        ConvolutionalGLU(0)
    assert isinstance(small_model().block1[0].drop_path, DropPath)
