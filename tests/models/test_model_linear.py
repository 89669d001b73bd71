"""Linear layers in other ways, and the GLU in groups of images: the same results."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from transnext_models.layers import ConvolutionalGLU, conv_glu
from transnext_models.layers import linear as linear_module
from transnext_models.layers.linear import linear, linear_layer

LAYOUTS = ("contiguous", "sliced", "transposed")


@pytest.fixture(autouse=True)
def two_threads_and_convolutions_of_any_size(monkeypatch):
    monkeypatch.setattr(linear_module, "_FEWEST_ROWS", 1)
    monkeypatch.setenv("TRANSNEXT_MODELS_LINEAR", "convolution")
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


def arranged(x: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "sliced":
        return torch.stack((x, x), -1)[..., 1]
    return x.transpose(1, 2).contiguous().transpose(1, 2) if layout == "transposed" else x


def results(function, *tensors: torch.Tensor | None) -> list[torch.Tensor]:
    inputs = [None if t is None else t.detach().requires_grad_() for t in tensors]
    y = function(*inputs)
    weights = torch.linspace(-1, 1, y.numel()).view(y.shape).to(y.dtype)
    (y * weights).sum().backward()
    return [y, *(t.grad for t in inputs if t is not None)]


def assert_same(actual, expected, tolerance: float = 2e-5) -> None:
    for a, e in zip(actual, expected, strict=True):
        assert a.shape == e.shape
        assert a.dtype == e.dtype
        bound = tolerance * max(1.0, e.abs().max().item() if e.numel() else 0.0)
        torch.testing.assert_close(a, e, rtol=0, atol=bound)


@given(
    st.integers(0, 3), st.integers(1, 40), st.integers(1, 50), st.integers(1, 50),
    st.booleans(), st.sampled_from(LAYOUTS),
)  # fmt: skip
def test_a_linear_is_a_linear(batch, tokens, depth, columns, has_bias, layout):
    generator = torch.Generator().manual_seed(batch * tokens + depth)
    x = arranged(torch.randn(batch, tokens, depth, generator=generator), layout)
    weight = torch.randn(columns, depth, generator=generator)
    bias = torch.randn(columns, generator=generator) if has_bias else None
    actual = results(linear, x, weight, bias)
    assert actual[0].is_contiguous()
    assert_same(actual, results(F.linear, x, weight, bias))


def test_it_is_a_convolution_where_that_is_meant_and_gives_the_same_bits_again():
    x, weight = torch.randn(2, 300, 24), nn.Parameter(torch.randn(48, 24))
    y = linear(x, weight, None)
    reshaped = y.grad_fn.next_functions[0][0].next_functions[0][0]
    assert "Convolution" in type(reshaped).__name__
    bias = torch.randn(48)
    first, second = (results(linear, x, weight, bias) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    with torch.backends.mkldnn.flags(enabled=False):
        assert "Convolution" not in str(linear(x, weight, None).grad_fn.next_functions)
    with torch.no_grad():
        assert linear(x, weight, None).grad_fn is None


def way_of(y: torch.Tensor) -> str:
    """Return the way that made `y`, a product by a weight that needs a gradient."""
    nodes, names = [y.grad_fn], ""
    for _ in range(4):  # a convolution is behind two views
        names += " ".join(type(node).__name__ for node in nodes)
        nodes = [before for node in nodes for before, _ in node.next_functions if before]
    return "convolution" if "Convolution" in names else "fused" if "Fused" in names else "linear"


@pytest.mark.parametrize(
    ("capability", "amx", "chosen", "expected"),
    [
        ("AVX2", False, "", "linear"),
        ("AVX2", False, "convolution", "convolution"),
        ("AVX512", False, "", "convolution"),
        ("AVX512", True, "", "fused"),
        ("DEFAULT", False, "", "linear"),
        ("NEON", False, "convolution", "convolution"),
        ("AVX512", True, "convolution", "convolution"),
        ("AVX512", False, "linear", "linear"),
        ("AVX512", True, "linear", "linear"),
        ("AVX2", False, "fused", "fused"),
    ],
)
def test_the_way_by_the_processor_and_by_the_environment(
    monkeypatch, capability, amx, chosen, expected
):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    monkeypatch.setattr(linear_module, "_has_amx", lambda: amx)
    monkeypatch.setattr(linear_module, "has_fused_linear", lambda dtype: True)
    monkeypatch.setenv("TRANSNEXT_MODELS_LINEAR", chosen)
    x, weight = torch.randn(2, 300, 24), nn.Parameter(torch.randn(48, 24))
    assert way_of(linear(x, weight, None)) == expected


@pytest.mark.parametrize(
    ("tiles", "ours", "backend", "chosen", "expected"),
    [
        (True, False, "auto", "", "fused"),
        (True, False, "cpp", "", "fused"),
        (True, False, "torch", "", "linear"),
        (False, False, "auto", "", "linear"),
        (True, False, "auto", "convolution", "linear"),
        (False, False, "torch", "fused", "fused"),
        (False, True, "auto", "", "fused"),
        (False, True, "torch", "", "linear"),
        (False, True, "auto", "linear", "linear"),
    ],
)
@pytest.mark.parametrize("autocast", [False, True])
def test_the_way_of_bfloat16(monkeypatch, tiles, ours, backend, chosen, expected, autocast):
    monkeypatch.setattr(linear_module, "only_ours", lambda dtype: ours)
    monkeypatch.setattr(linear_module, "has_tiles", lambda: tiles)
    monkeypatch.setattr(linear_module, "get_backend", lambda: backend)
    monkeypatch.setattr(linear_module, "has_fused_linear", lambda dtype: True)
    monkeypatch.setattr(linear_module, "fused_linear", lambda *_: "fused")
    monkeypatch.setenv("TRANSNEXT_MODELS_LINEAR", chosen)
    dtype = torch.float32 if autocast else torch.bfloat16
    x, weight = torch.randn(2, 300, 24, dtype=dtype), nn.Parameter(torch.randn(48, 24, dtype=dtype))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = linear(x, weight, None)
    assert (y if isinstance(y, str) else way_of(y)) == expected
    monkeypatch.setattr(linear_module, "has_fused_linear", lambda dtype: False)
    assert way_of(linear(x.to(weight.dtype), weight, None)) in ("linear", "convolution")


def test_our_products_of_bfloat16_need_neither_many_rows_nor_a_gradient(monkeypatch):
    monkeypatch.setattr(linear_module, "_FEWEST_ROWS", 256)
    monkeypatch.setattr(linear_module, "fused_linear", lambda *_: "fused")
    monkeypatch.setenv("TRANSNEXT_MODELS_LINEAR", "")
    x, weight = torch.randn(2, 3, 24).bfloat16(), torch.randn(48, 24).bfloat16()
    for ours in (True, False):
        monkeypatch.setattr(linear_module, "only_ours", lambda dtype, ours=ours: ours)
        with torch.inference_mode():
            y = linear(x, weight, None)
        assert isinstance(y, str) == ours
    monkeypatch.setattr(linear_module, "only_ours", lambda dtype: dtype == torch.bfloat16)
    assert torch.is_tensor(linear(x.float(), weight.float(), None))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model name\t: A\nflags\t\t: fpu avx512f amx_tile amx_bf16\n\nflags\t: fpu\n", True),
        ("flags\t\t: fpu avx512f\nbugs\t: amx_tile\n", False),
        ("Features\t: fp asimd\n", False),
        (None, False),
    ],
)
def test_amx_is_among_the_flags_that_linux_shows(tmp_path, text, expected):
    description = tmp_path / "cpuinfo"
    if text is not None:
        description.write_text(text)
    assert linear_module._has_amx(description) == expected


def test_an_unknown_way_is_an_error(monkeypatch):
    monkeypatch.setenv("TRANSNEXT_MODELS_LINEAR", "fast")
    with pytest.raises(ValueError, match="TRANSNEXT_MODELS_LINEAR: got 'fast', needs"):
        linear(torch.randn(2, 300, 24), nn.Parameter(torch.randn(48, 24)), None)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_and_autocast_take_the_ordinary_way(dtype):
    x, weight = torch.randn(2, 8, 6), torch.randn(4, 6)
    assert torch.equal(
        linear(x.to(dtype), weight.to(dtype), None), F.linear(x.to(dtype), weight.to(dtype))
    )
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(x, weight, None).dtype == torch.bfloat16


def test_hooks_and_other_layers_are_called():
    layer, x = nn.Linear(6, 4), torch.randn(2, 300, 6)
    seen = []
    handles = [
        layer.register_forward_hook(lambda *_: seen.append("forward")),
        layer.register_full_backward_hook(lambda *_: seen.append("backward")),
    ]
    linear_layer(layer, x).sum().backward()
    assert seen == ["forward", "backward"]
    for handle in handles:
        handle.remove()
    handle = nn.modules.module.register_module_forward_hook(lambda *_: seen.append("global"))
    linear_layer(layer, x)
    handle.remove()
    assert seen[2:] == ["global"]

    class Doubled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    doubled = Doubled(6, 4)
    assert torch.equal(linear_layer(doubled, x), doubled(x))
    assert torch.equal(linear_layer(nn.Identity(), x), x)


@pytest.mark.parametrize("images_of_a_group", [1, 2, 3])
def test_the_glu_in_groups_of_images_is_the_whole_one(monkeypatch, images_of_a_group):
    torch.manual_seed(0)
    glu, grid = ConvolutionalGLU(12, 48), (5, 4)
    x = torch.randn(5, 20, 12)
    names = [name for name, _ in glu.named_parameters()]

    def run(x: torch.Tensor, *parameters: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(glu, dict(zip(names, parameters, strict=True)), (x, grid))

    whole = results(run, x, *glu.parameters())
    image_bytes = 20 * 2 * 32 * 4
    monkeypatch.setattr(conv_glu, "_LARGEST_BUFFER", images_of_a_group * image_bytes)
    assert glu._groups(x) == -(-5 // images_of_a_group)
    assert_same(results(run, x, *glu.parameters()), whole)
    seen = []
    with glu.fc1.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].shape[0])):
        glu(x, grid)
    assert seen == [5]
