"""Outputs are always those of the weights: what evaluation derives from them is kept for as long as
their content stays, however it is changed, and no longer."""

from __future__ import annotations

import copy
import io
import pickle
import threading

import pytest
import torch

import transnext_ops as ops
from small_model import images, small_model
from transnext_models.layers import attention
from transnext_models.layers.derived import Derived, DerivesFromWeights
from transnext_ops.fingerprint import fingerprint


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
    assert all(len(block.attn.derived) == 0 for s in model.stages() for block in s.blocks)


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


def change_through_data(model):
    """A mean teacher, a target network."""
    for parameter in model.parameters():
        parameter.data.mul_(0.9).add_(torch.ones_like(parameter), alpha=0.01)


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


def change_the_epsilon_of_a_norm(model):
    model.block2[0].norm1.eps = 1.0


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
        change_by_optimiser_in_evaluation_mode,
        change_by_loading,
        change_by_assigning,
        change_in_place,
        change_under_inference_mode,
        change_packed_weights_in_place,
        change_one_packed_weight,
        change_data_pointer,
        change_parameter_object,
        *CHANGES_PAST_THE_VERSION_COUNTER,
        change_the_epsilon_of_a_norm,
        change_the_epsilon_of_the_pool_norm,
        change_the_epsilon_of_an_embedding,
    ],
)
@pytest.mark.parametrize("backend", [None, "torch"])
def test_changed_weights_are_seen(change, backend):
    model, x = small_model(backend=backend), images()
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


def derived(model):
    return [m.derived for m in model.modules() if isinstance(m, DerivesFromWeights)]


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


# Frozen models -----------------------------------------------------------------------------------


@pytest.fixture
def looked_at(monkeypatch):
    """Counts the times that weights are looked at."""
    from transnext_models.layers import derived as module

    calls = []

    def counting(weights):
        calls.append(len(weights))
        return fingerprint(weights)

    monkeypatch.setattr(module, "fingerprint", counting)
    return calls


def test_a_frozen_model_is_not_looked_at_again(looked_at):
    model, x = small_model(), images()
    first = run(model, x)
    assert len(looked_at) > BLOCKS
    model.freeze()
    looked_at.clear()
    assert torch.equal(run(model, x), first)
    assert torch.equal(run(model, x), first)
    assert not looked_at


def test_freezing_means_evaluation_and_keeps_gradients_as_they_are():
    model = small_model().train()
    assert model.freeze() is model
    assert not model.training
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize(
    "thaw",
    [
        lambda model: model.freeze(False),
        lambda model: model.train().eval(),
        change_by_loading,
        change_by_assigning,
        lambda model: model.block1[0].load_state_dict(model.block1[0].state_dict()),
        lambda model: copy.deepcopy(model),
        lambda model: pickle.loads(pickle.dumps(model)),
    ],
    ids=["freeze(False)", "train", "loading", "assigning", "a block's loading", "copy", "pickle"],
)
def test_what_ends_it(thaw):
    model, x = small_model().freeze(), images()
    run(model, x)
    result = thaw(model)
    model = result if isinstance(result, torch.nn.Module) else model
    assert not model.block1[0].derived.frozen
    model.block1[0].attn.q.weight.data.mul_(1.5)
    assert torch.equal(run(model, x), fresh(model, x))


@pytest.mark.parametrize(
    "change",
    [
        change_by_optimiser_in_evaluation_mode,
        change_in_place,
        change_under_inference_mode,
        change_packed_weights_in_place,
        change_data_pointer,
        change_parameter_object,
        change_the_epsilon_of_a_norm,
    ],
)
def test_an_edit_that_version_counters_show_ends_it_too(change):
    model, x = small_model().freeze(), images()
    before = run(model, x)
    change(model)
    after = run(model, x)
    assert not torch.allclose(after, before)
    assert torch.equal(after, fresh(model, x))


def test_eval_forgets_although_the_model_stays_frozen():
    model, x = small_model().freeze(), images()
    run(model, x)
    change_through_data(model)
    model.eval()
    assert torch.equal(run(model, x), fresh(model, x))
    assert all(part.frozen for part in derived(model))


def test_a_frozen_model_moves():
    model, x = small_model().freeze(), images()
    expected = run(model, x)
    single = run(model.float(), x.float())
    torch.testing.assert_close(single.double(), expected, rtol=1e-4, atol=1e-4)
    assert all(part.frozen for part in derived(model))


def test_elsewhere_than_on_the_cpu_nothing_is_kept_unless_frozen():
    weights = [torch.nn.Parameter(torch.zeros(3, device="meta"))]
    kept, made = Derived(), []

    def derive():
        made.append(1)
        return len(made)

    with torch.no_grad():
        assert [kept.get(weights, "key", derive) for _ in range(3)] == [1, 2, 3]
        kept.frozen = True
        assert [kept.get(weights, "key", derive) for _ in range(3)] == [4, 4, 4]
    assert len(kept) == 1


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
