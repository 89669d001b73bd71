"""Pruned, normalised and parametrised weights act in training and in evaluation."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
import torch.nn.utils.prune as prune
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from models.layer_calls import (
    CONVOLUTIONS,
    LAYERS,
    LINEARS,
    assert_is_called,
    run,
)
from small_model import images, small_model

# Pruning, normalised and parametrised weights ----------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_pruning_over_several_steps(name):
    model = small_model().train()
    prune.l1_unstructured(model.get_submodule(name), "weight", amount=0.5)
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        model(images()).square().mean().backward()
        optimiser.step()
    layer = model.eval().get_submodule(name)
    pruned = run(model)
    assert (layer.weight == 0).sum() >= layer.weight.numel() // 2
    torch.testing.assert_close(run(model, gradients=True), pruned)
    prune.remove(layer, "weight")
    torch.testing.assert_close(run(model), pruned)


@pytest.mark.parametrize("name", ["temperature", "query_embedding", "relative_pos_bias_local"])
def test_pruning_of_parameters_that_no_layer_holds(name):
    model = small_model()
    prune.random_unstructured(model.block2[0].attn, name, amount=0.5)
    expected = run(model, gradients=True)
    torch.testing.assert_close(run(model), expected)
    prune.remove(model.block2[0].attn, name)
    torch.testing.assert_close(run(model), expected)


@pytest.mark.parametrize("name", [*LINEARS, *CONVOLUTIONS])
@pytest.mark.parametrize(
    "normalise",
    [torch.nn.utils.weight_norm, parametrizations.weight_norm, parametrizations.spectral_norm],
    ids=["weight_norm, old", "weight_norm", "spectral_norm"],
)
def test_normalised_weights_over_several_steps(name, normalise):
    model = small_model().train()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        normalise(model.get_submodule(name))
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-3)
    for _ in range(3):
        optimiser.zero_grad()
        model(images()).square().mean().backward()
        optimiser.step()
    owned = dict(model.get_submodule(name).named_parameters())
    assert all(parameter.grad is not None for parameter in owned.values())
    model.eval()
    torch.testing.assert_close(run(model, gradients=True), run(model))


@pytest.mark.parametrize("name", LAYERS)
def test_a_parametrisation_acts(name):
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

    model = small_model()
    run(model)
    expected = copy.deepcopy(model)
    with torch.no_grad():
        expected.get_submodule(name).weight *= 2
    parametrize.register_parametrization(model.get_submodule(name), "weight", Double())
    for gradients in (True, False):
        torch.testing.assert_close(run(model, gradients=gradients), run(expected))


@pytest.mark.parametrize("name", ["temperature", "learnable_tokens"])
def test_a_parametrisation_of_an_attentions_own_parameter_acts(name):
    class Double(nn.Module):
        def forward(self, x):
            return 2 * x

    model = small_model()
    expected = copy.deepcopy(model)
    with torch.no_grad():
        getattr(expected.block1[0].attn, name).mul_(2)
    parametrize.register_parametrization(model.block1[0].attn, name, Double())
    for gradients in (True, False):
        torch.testing.assert_close(run(model, gradients=gradients), run(expected))


def test_structurally_pruned_layers_fit_each_other():
    """A mixer with half of its hidden channels, as pruning by structure leaves it."""
    model = small_model()
    mlp = model.block2[0].mlp
    hidden = mlp.fc2.weight.shape[1]
    kept = torch.arange(0, hidden, 2)
    conv = mlp.dwconv.dwconv
    with torch.no_grad():
        mlp.fc1.weight = nn.Parameter(mlp.fc1.weight[torch.cat([kept, kept + hidden])])
        mlp.fc1.bias = nn.Parameter(mlp.fc1.bias[torch.cat([kept, kept + hidden])])
        conv.weight = nn.Parameter(conv.weight[kept])
        conv.bias = nn.Parameter(conv.bias[kept])
        mlp.fc2.weight = nn.Parameter(mlp.fc2.weight[:, kept])
        conv.in_channels = conv.out_channels = conv.groups = len(kept)
    assert_is_called(model, ["block2.0.mlp.dwconv.dwconv"])
