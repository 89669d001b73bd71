"""Adapters, quantisation and sharding by the libraries that people use for them."""

from __future__ import annotations

import copy
import os
import tempfile
import warnings

import peft
import pytest
import torch
import torch.distributed as dist
import torchao.quantization as torchao
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.distributed.fsdp.wrap import (
    ModuleWrapPolicy,
    always_wrap_policy,
    size_based_auto_wrap_policy,
)

from small_model import images, small_model
from transnext_models import create_model
from transnext_models.layers import Block

pytestmark = pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::UserWarning"
)


def model_for(**options):
    return small_model(**options).float()


def x():
    return images().float()


def run(model, gradients=False):
    with torch.set_grad_enabled(gradients):
        return model(x()).detach()


# peft --------------------------------------------------------------------------------------------

LINEARS = [name for name, layer in small_model().named_modules() if isinstance(layer, nn.Linear)]
CONVOLUTIONS = [
    name for name, layer in small_model().named_modules() if isinstance(layer, nn.Conv2d)
]
ADAPTERS = {
    "LoRA": peft.LoraConfig(r=2, target_modules=LINEARS, init_lora_weights=False),
    "LoRA, convolutions too": peft.LoraConfig(
        r=2,
        target_modules=[*LINEARS, *(name for name in CONVOLUTIONS if "dwconv" not in name)],
        init_lora_weights=False,
    ),
    "DoRA": peft.LoraConfig(r=2, target_modules=LINEARS, init_lora_weights=False, use_dora=True),
    "rsLoRA": peft.LoraConfig(
        r=2, target_modules=LINEARS, init_lora_weights=False, use_rslora=True
    ),
    "IA3": peft.IA3Config(
        target_modules=LINEARS,
        feedforward_modules=[name for name in LINEARS if "fc2" in name],
        init_ia3_weights=False,
    ),
    "LoHa": peft.LoHaConfig(r=2, target_modules=LINEARS, init_weights=False),
    "OFT": peft.OFTConfig(
        r=0,
        oft_block_size=2,
        target_modules=[name for name in LINEARS if name.endswith((".q", ".proj", ".fc2"))],
        init_weights=False,
    ),
}


@pytest.mark.parametrize("name", list(ADAPTERS))
def test_adapters_get_gradients_and_merged_is_unmerged(name):
    torch.manual_seed(0)
    base = model_for()
    before = run(base)
    adapted = peft.get_peft_model(copy.deepcopy(base), ADAPTERS[name])
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad and parameter.ndim >= 1:
                parameter.mul_(0.98).add_(0.01)  # away from what does nothing
    adapted.train()
    adapted(x()).square().mean().backward()
    trainable = {n: p for n, p in adapted.named_parameters() if p.requires_grad}
    assert trainable
    assert not [n for n, p in trainable.items() if p.grad is None]
    adapted.eval()
    unmerged = run(adapted)
    torch.testing.assert_close(run(adapted, gradients=True), unmerged, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(unmerged, before, atol=1e-4)
    with adapted.disable_adapter():
        torch.testing.assert_close(run(adapted), before, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(run(adapted), unmerged)
    merged = adapted.merge_and_unload()
    assert isinstance(merged, type(base))
    torch.testing.assert_close(run(merged), unmerged, rtol=1e-3, atol=1e-3)


def test_adapters_merged_in_place_and_taken_out_again():
    torch.manual_seed(0)
    adapted = peft.get_peft_model(model_for(), ADAPTERS["LoRA"]).eval()
    unmerged = run(adapted)
    adapted.merge_adapter()
    torch.testing.assert_close(run(adapted), unmerged, rtol=1e-4, atol=1e-4)
    adapted.unmerge_adapter()
    torch.testing.assert_close(run(adapted), unmerged, rtol=1e-4, atol=1e-4)


# Quantisation -------------------------------------------------------------------------------------


def digits():
    """Float32 and the demonstrator: its logits are far apart, so that rounding shows little."""
    return create_model("transnext_pico", pretrained=True).eval()


def sample(batch=4):
    return torch.rand(batch, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("gradients", [True, False])
def test_dynamically_quantised_linear_layers(gradients):
    model = digits()
    with torch.set_grad_enabled(gradients):
        expected = model(sample()).detach()
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
        kinds = {type(layer).__module__ for layer in quantised.modules()}
        assert any("quantized.dynamic" in kind for kind in kinds)
        actual = quantised(sample()).detach()
    # Activations have 8 bits too, with one scale for a whole layer's.
    assert (actual - expected).abs().max() < 0.2 * expected.abs().max()
    assert not torch.equal(actual, expected)


@pytest.mark.parametrize(
    "config",
    [torchao.Int8WeightOnlyConfig(), torchao.Int8DynamicActivationInt8WeightConfig()],
    ids=["int8 weights", "int8 weights and activations"],
)
def test_torchao_on_all_linear_layers(config):
    model = digits()
    with torch.no_grad():
        expected = model(sample())
        torchao.quantize_(model, config)
        actual = model(sample())
    assert type(model.block1[0].attn.cpb_fc1.weight) is not nn.Parameter
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()
    assert not torch.equal(actual, expected)


# Sharding, one process ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def process_group():
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{os.path.join(folder, 'store')}"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        yield
        dist.destroy_process_group()


def train_a_little(model):
    optimiser = torch.optim.SGD(model.parameters(), lr=1e-2)
    model.train()
    for _ in range(2):
        optimiser.zero_grad()
        model(x()).square().mean().backward()
        optimiser.step()
    model.eval()
    return run(model)


POLICIES = {
    "whole": None,
    "blocks": ModuleWrapPolicy({Block}),
    "layers": ModuleWrapPolicy({nn.Linear, nn.Conv2d, nn.LayerNorm}),
    "every module": always_wrap_policy,
    "size": lambda module, recurse, nonwrapped_numel: size_based_auto_wrap_policy(
        module, recurse, nonwrapped_numel, min_num_params=500
    ),
}


@pytest.mark.parametrize("policy", list(POLICIES))
@pytest.mark.parametrize("use_orig_params", [True, False])
def test_fsdp1_by_any_policy(process_group, policy, use_orig_params):
    plain = model_for()
    sharded = FullyShardedDataParallel(
        copy.deepcopy(plain),
        auto_wrap_policy=POLICIES[policy],
        use_orig_params=use_orig_params,
        device_id=torch.device("cpu"),
    )
    torch.testing.assert_close(run(sharded), run(plain))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        actual = train_a_little(sharded)
    torch.testing.assert_close(actual, train_a_little(plain), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(sharded), run(plain), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("units", ["blocks", "attention and mixer", "layers"])
def test_fsdp2_on_any_unit(process_group, units):
    plain = model_for()
    model = copy.deepcopy(plain)
    for module in list(model.modules()):
        chosen = {
            "blocks": isinstance(module, Block),
            "attention and mixer": isinstance(
                module, (type(model.block1[0].attn), type(model.block1[0].mlp))
            ),
            "layers": isinstance(module, (nn.Linear, nn.Conv2d, nn.LayerNorm)),
        }[units]
        if chosen:
            fully_shard(module)
    fully_shard(model)
    before = run(model)
    torch.testing.assert_close(before, run(plain))
    # Not against a plain model's training: on one rank FSDP2 does not forget the root's gradients.
    after = train_a_little(model)
    assert not torch.allclose(after, before)
    plain.load_state_dict({name: value.full_tensor() for name, value in model.state_dict().items()})
    torch.testing.assert_close(after, run(plain), rtol=1e-4, atol=1e-4)


def test_a_broadcast_into_data_is_seen(process_group):
    """What frameworks without FSDP do to set all ranks' weights."""
    model = model_for()
    run(model)
    for parameter in model.parameters():
        parameter.data.mul_(1.5)
        dist.broadcast(parameter.data, src=0)
    torch.testing.assert_close(run(model), run(copy.deepcopy(model)))
