"""The oracle for a layer: the same layer inside a Sequential, which can only be called."""

from __future__ import annotations

import copy

import torch
from torch import nn

from small_model import images, small_model

BLOCK = "block1.0"


LINEARS = [f"{BLOCK}.attn.{name}" for name in ("q", "kv", "proj", "cpb_fc1", "cpb_fc2")] + [
    f"{BLOCK}.mlp.fc1",
    f"{BLOCK}.mlp.fc2",
    "block4.0.attn.qkv",
]


CONVOLUTIONS = ["patch_embed2.proj", f"{BLOCK}.attn.sr", f"{BLOCK}.mlp.dwconv.dwconv"]


NORMS = ["patch_embed1.norm", f"{BLOCK}.norm1", f"{BLOCK}.norm2", f"{BLOCK}.attn.norm", "norm2"]


LAYERS = [*LINEARS, *CONVOLUTIONS, *NORMS]


def run(model, x=None, gradients=False):
    with torch.set_grad_enabled(gradients):
        return model(images() if x is None else x).detach()


def replace(model, name, layer):
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def assert_is_called(model, names, expected_change=True):
    """The model's outputs are those of the layers `names` being called, whatever the mode."""
    called = copy.deepcopy(model)
    for name in names:
        replace(called, name, nn.Sequential(called.get_submodule(name)))
    expected = run(called)
    for gradients in (True, False):
        torch.testing.assert_close(run(model, gradients=gradients), expected)
    if expected_change:
        assert not torch.allclose(expected, run(small_model()))
