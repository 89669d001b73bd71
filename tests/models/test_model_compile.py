"""The model under torch.compile and torch.export."""

from __future__ import annotations

import pytest
import torch

from small_model import images, small_model


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def derived_is_empty(model) -> bool:
    return all(len(block.attn.derived) == 0 for s in model.stages() for block in s.blocks)


@pytest.mark.parametrize(
    "options",
    [{}, {"backend": "torch", "features_only": True, "fixed_pool_size": 2}],
    ids=["classifier", "backbone"],
)
def test_compiles_to_one_graph_in_evaluation(options):
    model, x = small_model(depths=(1, 1, 1, 1), **options), images(64, 96)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    with torch.no_grad():
        actual = compiled(x)
        assert derived_is_empty(model)
        torch.testing.assert_close(actual, model(x))
        # Changed weights are seen by the graph that is there already.
        model.block1[0].attn.cpb_fc2.bias.add_(1.0)
        changed = compiled(x)
        assert not torch.allclose(changed[-1], actual[-1])
        torch.testing.assert_close(changed, model(x))


def test_compiles_to_one_graph_in_training():
    model, x = small_model(depths=(1, 1, 1, 1)), images()
    model.train()
    model(x).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    compiled(x).square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=name)


def test_exports_for_any_batch():
    model = small_model(depths=(1, 1, 1, 1))
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(),), dynamic_shapes={"x": {0: batch}})
    assert derived_is_empty(model)
    for count in (1, 2, 5):
        x = images(batch=count, seed=count)
        torch.testing.assert_close(program.module()(x), model(x))
