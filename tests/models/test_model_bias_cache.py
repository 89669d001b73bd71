"""In evaluation the position bias is computed once per size, weights are packed once, and both anew
when weights change."""

from __future__ import annotations

import copy
import io
import pickle

import pytest
import torch

import transnext_ops as ops
from small_model import images, small_model
from transnext_models.layers import attention


@pytest.fixture
def computed(monkeypatch):
    """Counts the position biases computed."""
    calls = []
    original = ops.position_bias

    def counting(*arguments, **keywords):
        calls.append(keywords["grid"])
        return original(*arguments, **keywords)

    monkeypatch.setattr(attention.ops, "position_bias", counting)
    return calls


BLOCKS = 5


def run(model, x):
    with torch.no_grad():
        return model(x)


def fresh(model, x):
    """What the model gives with nothing remembered: a copy's caches are empty."""
    return run(copy.deepcopy(model), x)


def test_a_size_seen_before_is_not_computed_again(computed):
    model, x = small_model(), images()
    first = run(model, x)
    assert len(computed) == BLOCKS
    assert torch.equal(run(model, x), first)
    run(model, images(batch=1))
    assert len(computed) == BLOCKS
    run(model, images(64, 96))
    assert len(computed) == 2 * BLOCKS
    run(model, x)
    assert len(computed) == 2 * BLOCKS


def test_inference_mode_and_no_grad_share_entries(computed):
    model, x = small_model(), images()
    with torch.inference_mode():
        first = model(x)
    assert torch.equal(run(model, x), first)
    assert len(computed) == BLOCKS
    # Nor is an entry made under inference mode lost to autograd.
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    leaf = x.clone().requires_grad_()
    model(leaf).sum().backward()
    assert len(computed) == BLOCKS
    assert leaf.grad.abs().max() > 0


def test_nothing_is_kept_in_training_or_with_gradients(computed):
    model, x = small_model(), images()
    model(x)
    model(x)
    assert len(computed) == 2 * BLOCKS
    model.train()
    run(model, x)
    run(model, x)
    assert len(computed) == 4 * BLOCKS
    assert all(len(block.attn.bias_cache) == 0 for s in model.stages() for block in s.blocks)


def change_by_optimiser(model):
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images()).square().sum().backward()
    optimiser.step()
    model.eval()


def change_by_optimiser_in_evaluation_mode(model):
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01)
    model(images()).square().sum().backward()
    optimiser.step()


def change_by_loading(model):
    model.load_state_dict({name: 0.5 * x for name, x in model.state_dict().items()})


def change_by_assigning(model):
    state = {name: 0.5 * x for name, x in model.state_dict().items()}
    model.load_state_dict(state, assign=True)


def change_in_place(model):
    with torch.no_grad():
        model.block1[0].attn.cpb_fc2.bias.add_(1.0)


def change_under_inference_mode(model):
    with torch.inference_mode():
        model.block3[1].attn.cpb_fc1.weight.mul_(2.0)


def change_packed_weights_in_place(model):
    with torch.no_grad():
        for name in ("attn.kv.weight", "attn.norm.bias", "mlp.fc2.weight"):
            model.block1[0].get_parameter(name).mul_(1.5)


def change_one_packed_weight(model):
    with torch.no_grad():
        model.block4[0].mlp.dwconv.dwconv.bias.add_(0.5)


def change_data_pointer(model):
    weight = model.block2[0].attn.cpb_fc1.weight
    for _ in range(3):  # the memory of the first may come back as that of the third
        weight.data = weight.data * 1.5


def change_parameter_object(model):
    layer = model.block4[0].attn.cpb_fc2
    layer.weight = torch.nn.Parameter(layer.weight.detach() * 2)


def change_through_data_while_training(model):
    model.train()
    model.block1[0].attn.cpb_fc2.bias.data.add_(1.0)
    model.eval()


@pytest.mark.parametrize(
    "change",
    [
        change_by_optimiser,
        change_by_optimiser_in_evaluation_mode,
        change_by_loading,
        change_by_assigning,
        change_in_place,
        change_under_inference_mode,
        change_packed_weights_in_place,
        change_one_packed_weight,
        change_data_pointer,
        change_parameter_object,
        change_through_data_while_training,
    ],
)
def test_changed_weights_are_seen(change):
    model, x = small_model(), images()
    before = run(model, x)
    change(model)
    after = run(model, x)
    assert not torch.allclose(after, before)
    assert torch.equal(after, fresh(model, x))


def test_dtype_changes_are_seen():
    model, x = small_model(), images()
    expected = run(model, x)
    single = run(model.float(), x.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(run(model.double(), x), expected)


def test_backends_do_not_share_entries(computed):
    model, x = small_model(), images()
    with ops.use_backend("torch"):
        run(model, x)
    with ops.use_backend("reference"):
        run(model, x)
    assert len(computed) == 2 * BLOCKS


def test_many_sizes_are_not_all_kept():
    model = small_model()
    for size in range(32, 32 + 16 * 8, 8):
        run(model, images(size, batch=1))
    kept = [len(block.attn.bias_cache) for stage in model.stages() for block in stage.blocks]
    assert 1 <= max(kept) <= 4


def test_copies_and_pickles_have_their_own(computed):
    model, x = small_model(), images()
    expected = run(model, x)
    size = len(pickle.dumps(small_model()))
    data = pickle.dumps(model)
    assert len(data) == size  # no table travels
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    for twin in (
        copy.deepcopy(model),
        pickle.loads(data),
        torch.load(buffer, weights_only=False),
    ):
        assert torch.equal(run(twin, x), expected)
        change_in_place(twin)
        assert not torch.allclose(run(twin, x), expected)
    assert torch.equal(run(model, x), expected)


def test_the_state_dict_does_not_know_of_it():
    model = small_model()
    names = list(model.state_dict())
    run(model, images())
    assert list(model.state_dict()) == names
    assert not list(model.buffers())


def test_functional_calls_see_their_own_weights():
    model, x = small_model(), images()
    run(model, x)
    weights = {name: 0.5 * value for name, value in model.state_dict().items()}
    with torch.no_grad():
        actual = torch.func.functional_call(model, weights, (x,))
    model.load_state_dict(weights)
    torch.testing.assert_close(actual, run(model, x))


def test_clear_forgets():
    model, x = small_model(), images()
    before = run(model, x)
    block = model.block1[0]
    block.attn.cpb_fc2.bias.data.add_(1.0)  # unseen by PyTorch's version counter
    block.attn.bias_cache.clear()
    assert not torch.allclose(run(model, x), before)
