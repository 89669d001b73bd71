"""The model under torch.compile, torch.export, torch.jit.trace and the ONNX exporters."""

from __future__ import annotations

import onnxruntime
import pytest
import torch
import torch._dynamo.testing
from torch.export import Dim

from small_model import images, small_model
from transnext_ops import available_backends

# Tracing sizes that stay open takes half a minute, so a mode is several options at once.
MODES = [{}, {"features_only": True, "fixed_pool_size": 2}]
SIZES = [(64, 64), (65, 97), (96, 128), (224, 160), (300, 100)]


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch.compiler.reset()
    # Keeping the results of operators takes longer than making them anew where sizes are open.
    with torch._dynamo.config.patch(fake_tensor_cache_enabled=False):
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
    batch = Dim("batch", min=1, max=64)
    program = torch.export.export(model, (images(),), dynamic_shapes={"x": {0: batch}})
    assert derived_is_empty(model)
    assert not any("transnext" in str(node.target) for node in program.graph.nodes)
    for count in (1, 2, 5):
        x = images(batch=count, seed=count)
        torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.slow
@pytest.mark.parametrize("options", [pytest.param(MODES[0], marks=pytest.mark.long), MODES[1]])
def test_one_graph_serves_all_sizes(options):
    model = small_model(depths=(1, 1, 1, 1), **options)
    counter = torch._dynamo.testing.CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    with torch.no_grad():
        for height, width in SIZES:
            x = images(height, width)
            torch.testing.assert_close(compiled(x), model(x))
    assert counter.frame_count <= 2


@pytest.mark.long
@pytest.mark.slow
def test_exports_with_free_sizes_through_the_compiler():
    model = small_model(depths=(1, 1, 1, 1), backend="torch")
    sizes = {2: Dim("height", min=64, max=512), 3: Dim("width", min=64, max=512)}
    with torch.no_grad():
        program = torch.export.export(model, (images(),), dynamic_shapes=(sizes,), strict=True)
        for height, width in SIZES:
            x = images(height, width)
            torch.testing.assert_close(program.module()(x), model(x))


@pytest.mark.filterwarnings("ignore")
def test_traces_as_it_comes():
    model, x = small_model(), images(64, 96)
    with torch.no_grad():
        traced = torch.jit.trace(model, x)
        torch.testing.assert_close(traced(x), model(x))


def run_onnx(path, x):
    session = onnxruntime.InferenceSession(path)
    outputs = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return [torch.from_numpy(output) for output in outputs]


def assert_onnx_is_right(path, model, x):
    with torch.no_grad():
        expected = model(x)
    for actual, wanted in zip(
        run_onnx(path, x), expected if isinstance(expected, list) else [expected], strict=True
    ):
        torch.testing.assert_close(actual, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("dynamo", [pytest.param(True, marks=pytest.mark.long), False])
def test_exports_to_onnx_as_it_comes(tmp_path, dynamo):
    # A backend that is named need not be taken back: one without C++ names it as well.
    model = small_model(depths=(1, 1, 1, 1), backend=available_backends()[-1]).float()
    x, path = images(64, 96).float(), tmp_path / "model.onnx"
    torch.onnx.export(model, (x,), path, dynamo=dynamo, verbose=False)
    assert_onnx_is_right(path, model, x)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("options", MODES)
def test_one_program_and_its_onnx_file_serve_all_sizes(tmp_path, options):
    """Both are of one trace, which is what takes long."""
    model, path = small_model(depths=(1, 1, 1, 1), **options).float(), tmp_path / "model.onnx"
    sizes = {
        0: Dim("batch", min=1, max=16),
        2: Dim("height", min=64, max=512),
        3: Dim("width", min=64, max=512),
    }
    x = images(96, 128).float()
    with torch.no_grad():
        program = torch.export.export(model, (x,), dynamic_shapes=(sizes,), strict=False)
    torch.onnx.export(program, f=path, dynamo=True, verbose=False)
    for batch, (height, width) in enumerate(SIZES, 1):
        x = images(height, width, batch=batch).float()
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), model(x), rtol=1e-4, atol=1e-4)
        assert_onnx_is_right(path, model, x)
