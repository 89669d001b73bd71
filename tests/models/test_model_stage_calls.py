"""A frozen model is one call, or one for each stage, and gives what blocks one by one give."""

from __future__ import annotations

import copy
import threading
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import transnext_ops as ops
from models.changed_weights import fresh, run
from models.layer_calls import LAYERS, replace
from small_model import CLASSES, images, small_model
from transnext_models.layers.stage import Blocks
from transnext_ops.backends import cpp_backend

_cpp = pytest.importorskip("transnext_ops._cpp")
STAGES = 4
WHOLE = STAGES + 1  # results: of each stage and of the head
OPTIONS: list[dict[str, Any]] = [
    {},
    {"fixed_pool_size": 3, "window_size": 5},
    {"features_only": True, "img_size": 96, "pretrain_size": 64},
    {"attention": "pixel_focused", "qkv_bias": False},
    {"sr_ratios": (16, 8, 4, 2)},
    {"length_scaling": "training", "img_size": 64},
]
DTYPES = [torch.float64, torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many results each call of a program was asked for, those that nobody wants included."""
    made: list[int] = []
    original = cpp_backend.run_program

    def count(program: Any, x: Tensor, outs: Sequence[Tensor | None]) -> None:
        made.append(len(outs))
        original(program, x, outs)

    monkeypatch.setattr(cpp_backend, "run_program", count)
    return made


def outputs(model: nn.Module, x: Tensor) -> list[Tensor]:
    with torch.no_grad():
        found = model(x)
    return found if isinstance(found, list) else [found]


def all_equal(some: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


# The same results -------------------------------------------------------------------------------


@settings(max_examples=15)
@given(
    options=st.sampled_from(OPTIONS),
    dtype=st.sampled_from(DTYPES),
    autocast=st.sampled_from([None, torch.bfloat16]),
    size=st.tuples(st.integers(32, 100), st.integers(32, 100)),
    batch=st.integers(0, 3),
    channels_last=st.booleans(),
    threads=st.integers(1, 3),
)
def test_gives_the_same_bits(options, dtype, autocast, size, batch, channels_last, threads) -> None:
    model = small_model(**options).to(dtype)
    x = images(*size, batch=batch).to(dtype)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            expected = outputs(model, x)
            model.freeze()
            assert all_equal(outputs(model, x), expected)
            assert all_equal(outputs(model, x), expected)
    finally:
        torch.set_num_threads(before)


def test_is_one_call_whatever_the_batch(calls) -> None:
    model = small_model().freeze()
    for batch in (1, 3, 2):
        expected = fresh(model, images(batch=batch))
        assert torch.equal(run(model, images(batch=batch)), expected)
    assert calls == 3 * [WHOLE]
    assert len(model.derived) == 1
    assert [len(stage.blocks.derived) for stage in model.stages()] == [0] * STAGES


def test_maps_and_features_are_of_the_same_program(calls) -> None:
    model, x = small_model().freeze(), images()
    with torch.no_grad():
        expected = copy.deepcopy(model).forward_intermediates(x)
        features = model.forward_features(x)
        last, maps = model.forward_intermediates(x)
        chosen = model.forward_intermediates(x, [2, 0], stop_early=True, intermediates_only=True)
        logits = model.forward_head(features)
    assert torch.equal(features, expected[0])
    assert torch.equal(last, expected[0])
    assert all_equal(maps, expected[1])
    assert all_equal(chosen, [expected[1][0], expected[1][2]])
    assert torch.equal(logits, run(model, x))
    assert calls == [STAGES, STAGES, 3, WHOLE]
    assert len(model.derived) == 1


@pytest.mark.parametrize(
    "options", [{"global_pool": ""}, {"num_classes": 0}, {"features_only": True}], ids=str
)
def test_is_one_call_without_a_head_too(calls, options: dict[str, Any]) -> None:
    model, x = small_model(**options), images()
    expected = outputs(model, x)
    assert all_equal(outputs(model.freeze(), x), expected)
    assert calls == [STAGES]


def test_keeps_a_few_sizes(calls) -> None:
    model = small_model().freeze()
    for side in range(32, 32 + 8 * 32, 32):
        run(model, images(side))
    assert len(model.derived) == 4


def test_takes_maps_that_stand_for_other_memory(calls) -> None:
    model = small_model().freeze()
    x = images()
    negative = torch.complex(torch.zeros_like(x), x).conj().imag
    assert negative.is_neg()
    assert torch.equal(run(model, negative), run(model, -x))
    assert torch.equal(run(model, x.expand(2, 3, 64, 64)[:1]), run(model, x[:1]))
    assert len(calls) == 4


def test_runs_in_many_threads_at_once(calls) -> None:
    model, found = small_model().freeze(), {}
    batches = {i: images(seed=i) for i in range(6)}
    expected = {i: fresh(model, x) for i, x in batches.items()}

    def work(i: int) -> None:
        for _ in range(3):
            found[i] = run(model, batches[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[i], expected[i]) for i in batches)
    assert len(calls) == 6 * 3


def test_a_model_goes_with_its_last_reference(calls) -> None:
    model = small_model().freeze()
    run(model, images())
    assert calls
    gone = weakref.ref(model.block3[0].attn.q.weight), weakref.ref(model.block3)
    del model
    assert [reference() for reference in gone] == [None, None]


def test_copies_are_blocks_without_calls(calls) -> None:
    model = small_model().freeze()
    expected = run(model, images())
    copied = copy.deepcopy(model)
    assert isinstance(copied.block1, Blocks)
    assert isinstance(copied.block1[:1], Blocks)
    calls.clear()
    assert torch.equal(run(copied, images()), expected)
    assert not calls


# What ends or interrupts it -----------------------------------------------------------------------


def test_only_frozen_models_take_it(calls) -> None:
    model = small_model()
    run(model, images())
    model.freeze()
    model(images())  # records gradients
    assert not calls


@pytest.mark.parametrize("name", [*LAYERS, "head"])
def test_what_is_attached_later_acts(calls, name: str) -> None:
    model, x = small_model().freeze(), images()
    first = run(model, x)
    seen: list[int] = []
    hook = model.get_submodule(name).register_forward_hook(
        lambda module, arguments, output: seen.append(len(output)) or output + output.square()
    )
    changed = run(model, x)
    assert seen
    assert 0 not in seen  # nobody sees the empty batch of a recording
    if "cpb" not in name:
        assert not torch.allclose(changed, first)
    hook.remove()
    calls.clear()
    assert torch.equal(run(model, x), first)
    assert calls == [WHOLE]
    calls.clear()
    replace(model, name, nn.Sequential(copy.deepcopy(model.get_submodule(name))))
    torch.testing.assert_close(run(model, x), first)
    assert calls == ([1] * (STAGES - 1) if name != "head" else [STAGES])


def drop_before_the_head(model):
    model.head_drop.p = 1.0
    model.head_drop.train()


def replace_the_head(model):
    model.head = nn.Sequential(nn.Linear(32, CLASSES).double())


def change_the_head(model):
    with torch.no_grad():
        model.head.bias.add_(1.0)


def change_the_data_of_the_head(model):
    model.head.weight.data = model.head.weight.data * 2.0


def replace_a_method(model):
    model.forward_features = lambda x: model.forward_intermediates(x)[0] * 2.0


def change_an_attribute(model):
    model.block3[1].norm2.eps = 1.0


def change_the_epsilon_of_a_stage(model):
    model.norm3.eps = 1.0


def change_the_norm_of_a_stage(model):
    with torch.no_grad():
        model.norm3.bias.add_(1.0)


def change_the_data_of_a_norm(model):
    model.norm3.weight.data = model.norm3.weight.data * 2.0


def load_the_norm_of_a_stage(model):
    model.norm3.load_state_dict({"weight": torch.ones(24), "bias": torch.ones(24)})


def replace_the_norm_of_a_stage(model):
    model.norm3 = nn.LayerNorm(24, eps=1.0).double()


def replace_an_embedding(model):
    other = copy.deepcopy(model.patch_embed3)
    with torch.no_grad():
        other.proj.weight.mul_(-1.0)
    model.patch_embed3 = other


def change_a_class(model):
    model.block3[1].mlp.__class__ = type("Other", (type(model.block3[1].mlp),), {})


def change_the_order(model):
    model.block3[0], model.block3[1] = model.block3[1], model.block3[0]


def drop_a_block(model):
    del model.block3[0]


def drop_out(model):
    model.block3[1].mlp.drop.p = 1.0
    model.block3[1].mlp.drop.train()


def replace_a_forward(model):
    block = model.block3[1]
    block.forward = lambda x, grids: x


def change_a_block_behind_eval(model):
    model.block3[0].attn.proj.weight.data.mul_(2.0)
    model.block3[0].eval()


def change_a_block_after_training(model):
    model.block3[0].train().eval()
    model.block3[0].attn.proj.weight.data.mul_(2.0)


CHANGES = [
    drop_before_the_head,
    replace_the_head,
    change_the_head,
    change_the_data_of_the_head,
    replace_a_method,
    change_an_attribute,
    change_the_epsilon_of_a_stage,
    change_the_norm_of_a_stage,
    change_the_data_of_a_norm,
    load_the_norm_of_a_stage,
    replace_the_norm_of_a_stage,
    replace_an_embedding,
    change_a_class,
    change_the_order,
    drop_a_block,
    drop_out,
    replace_a_forward,
    change_a_block_behind_eval,
    change_a_block_after_training,
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_noticed(change) -> None:
    model, x = small_model().freeze(), images()
    before = run(model, x)
    change(model)
    after = run(model, x)
    if change is not change_a_class:
        assert not torch.allclose(after, before)
    assert torch.equal(after, run(model, x))
    assert torch.equal(after, fresh(model, x))


def test_another_backend_is_taken(calls) -> None:
    model, x = small_model().freeze(), images()
    expected = run(model, x)
    calls.clear()
    with ops.use_backend("torch"):
        torch.testing.assert_close(run(model, x), expected)
    model.set_backend("torch")
    torch.testing.assert_close(run(model, x), expected)
    assert not calls
    model.set_backend(None)
    assert torch.equal(run(model, x), expected)
    assert calls == [WHOLE]


def test_a_profiler_sees_the_operators(calls) -> None:
    model, x = small_model().freeze(), images()
    run(model, x)
    calls.clear()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        run(model, x)
    names = [event.name for event in profile.events()]
    assert names.count("transnext::attention_residual") == 5
    assert names.count("transnext::pooled_linear") == 1
    assert not calls


# The compiled library's programs ------------------------------------------------------------------


def test_a_program_checks_what_it_is_run_with(monkeypatch: pytest.MonkeyPatch) -> None:
    programs: list[Any] = []
    monkeypatch.setattr(
        cpp_backend, "run_program", lambda program, x, outs: programs.append(program)
    )
    run(small_model().freeze(), images())
    program = programs[0]
    assert program.result_shapes() == [(256, 8), (64, 16), (16, 24), (4, 32), (1, CLASSES)]
    x, out = images(), torch.empty(2, 256, 8, dtype=torch.float64)
    last = torch.empty(2, 1, CLASSES, dtype=torch.float64)
    program.run(x, [out], 1)
    program.run(x, [out, None, None, None, last], 1)
    for arguments, message in [
        ((x[:1], [out]), "batch"),
        ((x[:, :, :32], [out]), "x has"),
        ((x, [out[:, :100]]), "outs has"),
        ((x, [None, out]), "outs has"),
        ((x, [out.float()]), "outs is float32, which does not go with|another type"),
        ((x.float(), [out.float()]), "another type"),
        ((x, []), "outs has 0 entries, needs 1 to 5"),
        ((x, [out] * 6), "outs has 6 entries, needs 1 to 5"),
    ]:
        with pytest.raises(ValueError, match=message):
            program.run(*arguments, 1)
    with pytest.raises(ValueError, match="no step was recorded"):
        _cpp.Program().run(x, [out], 1)
    with pytest.raises(TypeError, match="x is int"):
        program.run(3, [out], 1)


def test_a_program_takes_no_step_that_does_not_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model().eval()
    program = cpp_backend.new_program()
    with torch.no_grad(), cpp_backend.recording(program):
        model.patch_embed1(images()[:0])
        with pytest.raises(ValueError, match="does not take"):
            model.patch_embed1(images()[:0])
        with pytest.raises(ValueError, match="does not take"):
            model.block2[0](images()[:0, :1].new_empty(0, 64, 16), model.stage_grids(1, (8, 8)))
    assert len(program) == 1
    assert _cpp.record_program(None) is None


def test_dictionaries_hold_the_same_or_not() -> None:
    one, other = {"a": 1, "b": "x"}, {"c": None}
    content = (one, "a", one["a"], "b", one["b"], other, "c", None)
    assert cpp_backend.hold_the_same((one, other), content)
    for change in (
        lambda: other.update(d=1),
        lambda: other.pop("d"),
        lambda: one.update(a=1000),
        lambda: one.pop("a"),
    ):
        was = cpp_backend.hold_the_same((one, other), content)
        change()
        now = cpp_backend.hold_the_same((one, other), content)
        assert was != now or not was
    assert not cpp_backend.hold_the_same((one, other), content)
    assert not cpp_backend.hold_the_same((one,), ())
    assert not cpp_backend.hold_the_same(([],), ([],))
    assert cpp_backend.hold_the_same((), ())
