"""Outputs are always those of the weights, however these are changed and whatever is cached."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch

import transnext_ops as ops
from models.changed_weights import (
    BLOCKS,
    CHANGES_THAT_VERSIONS_SHOW,
    change_by_assigning,
    change_by_loading,
    change_in_place,
    change_through_data,
    check_that_a_change_is_seen,
    fresh,
    run,
)
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


def test_a_size_seen_before_is_not_recomputed(computed):
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
    assert all(len(block.attn.derived) == 0 for s in model.stages() for block in s.blocks)


def change_by_optimiser(model):
    model.train()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    model(images()).square().sum().backward()
    optimiser.step()
    model.eval()


def change_one_packed_weight(model):
    with torch.no_grad():
        model.block4[0].mlp.dwconv.dwconv.bias.add_(0.5)


def change_through_data_by_copying(model):
    for parameter in model.parameters():
        parameter.data.copy_(parameter.data * 0.9)


def change_one_element_through_data(model):
    model.block3[1].mlp.fc2.weight.data.view(-1)[-1] += 1.0


def change_through_numpy(model):
    model.block3[0].attn.proj.weight.detach().numpy()[0, 0] += 1.0


def change_through_a_storage(model):
    """A flat buffer that parameters are views of, as sharded and fused optimisers keep one."""
    storage = model.patch_embed2.proj.weight.untyped_storage()
    torch.empty(0, dtype=torch.float64).set_(storage).mul_(1.5)


def change_signs_through_data(model):
    model.block1[0].attn.q.weight.data.neg_()


def change_order_through_data(model):
    weight = model.block1[0].mlp.fc1.weight
    weight.data.copy_(weight.data.flip(0))


def change_the_epsilon_of_the_pool_norm(model):
    model.block2[0].attn.norm.eps = 1.0


def change_the_epsilon_of_an_embedding(model):
    model.patch_embed1.norm.eps = 1.0


CHANGES_PAST_THE_VERSION_COUNTER = [
    change_through_data,
    change_through_data_by_copying,
    change_one_element_through_data,
    change_through_numpy,
    change_through_a_storage,
    change_signs_through_data,
    change_order_through_data,
]


@pytest.mark.parametrize(
    "change",
    [
        change_by_optimiser,
        change_by_loading,
        change_by_assigning,
        change_one_packed_weight,
        *CHANGES_THAT_VERSIONS_SHOW,
        *CHANGES_PAST_THE_VERSION_COUNTER,
        change_the_epsilon_of_the_pool_norm,
        change_the_epsilon_of_an_embedding,
    ],
)
@pytest.mark.parametrize("backend", [None, "torch"])
def test_changed_weights_are_seen(change, backend):
    check_that_a_change_is_seen(small_model(backend=backend), change)


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
    kept = [len(block.attn.derived) for stage in model.stages() for block in stage.blocks]
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


def test_every_element_of_every_parameter_counts():
    model, x = small_model(depths=(1, 1, 1, 1)), images(32, batch=1)
    outputs = {run(model, x).numpy().tobytes()}
    for name, parameter in model.named_parameters():
        if name.startswith(("norm", "head")):
            continue  # ordinary layers
        parameter.data.view(-1)[-1] += 0.5
        model_of_these = copy.deepcopy(model)
        assert torch.equal(run(model, x), run(model_of_these, x)), name
        outputs.add(run(model, x).numpy().tobytes())
    assert len(outputs) > 60  # most last elements do change the output


def test_a_weight_that_is_put_back_gives_the_outputs_it_gave():
    model, x = small_model(), images()
    first = run(model, x)
    model.block1[0].attn.q.weight.data.mul_(2.0)
    run(model, x)
    model.block1[0].attn.q.weight.data.mul_(0.5)
    assert torch.equal(run(model, x), first)


def test_parameters_made_under_inference_mode_are_looked_at_too():
    with torch.inference_mode():
        model = small_model()
    x = images()
    before = run(model, x)
    with torch.inference_mode():
        model.block1[0].attn.q.weight.mul_(1.5)
    assert not torch.allclose(run(model, x), before)
    assert torch.equal(run(model, x), fresh(model, x))


def test_half_of_a_batch_from_each_of_two_threads():
    model, x = small_model(), images(batch=4)
    expected = run(model, x)
    outputs: dict[int, torch.Tensor] = {}

    def work(i):
        for _ in range(5):
            outputs[i] = run(model, x)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(output, expected) for output in outputs.values())


def test_fake_weights_and_observed_calls_leave_nothing_behind():
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.utils.flop_counter import FlopCounterMode

    model, x = small_model(), images()
    expected = run(model, x)
    model.train().eval()  # forgets
    with FlopCounterMode(display=False) as counter:
        run(model, x)
    assert any(name.endswith("mlp.fc1") for name in counter.get_flop_counts())
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert run(model, x).shape == expected.shape
    assert torch.equal(run(model, x), expected)
