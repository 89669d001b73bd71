"""Names, shapes, sizes, costs, initialisation and checkpoints of the family, as published."""

from __future__ import annotations

import functools
import math

import pytest
import torch

from transnext_models import VARIANTS, create_model, list_models
from transnext_models.classification.multiply_adds import count_multiply_adds
from transnext_models.variants import Variant, find_checkpoint

PARAMETERS = {
    "transnext_micro": 12_809_304,
    "transnext_tiny": 28_258_960,
    "transnext_small": 49_741_564,
    "transnext_base": 89_721_496,
    "transnext_micro_AAAA": 13_114_008,
}
# Published multiply-adds in 1e9, by model and image size.
COSTS = [
    ("transnext_micro", 224, 2.65),
    ("transnext_tiny", 224, 5.71),
    ("transnext_small", 224, 10.29),
    ("transnext_base", 224, 18.30),
    ("transnext_small", 384, 32.02),
    ("transnext_base", 384, 56.19),
    ("transnext_micro_AAAA", 256, 3.33),
]
FILES = {
    "transnext_micro.in1k": "transnext-micro-224-1k/transnext_micro_224_1k.pth",
    "transnext_tiny.in1k": "transnext-tiny-224-1k/transnext_tiny_224_1k.pth",
    "transnext_small.in1k": "transnext-small-224-1k/transnext_small_224_1k.pth",
    "transnext_base.in1k": "transnext-base-224-1k/transnext_base_224_1k.pth",
    "transnext_small.in1k_384": "transnext-small-384-1k-ft-1k/transnext_small_384_1k_ft_1k.pth",
    "transnext_base.in1k_384": "transnext-base-384-1k-ft-1k/transnext_base_384_1k_ft_1k.pth",
    "transnext_micro_AAAA.in1k": "transnext-micro-AAAA-256-1k/transnext_micro_AAAA_256_1k.pth",
}


@functools.cache
def meta_model(name: str, **options):
    """A model without memory for its parameters; never changed by a test."""
    with torch.device("meta"):
        return create_model(name, **options)


def published_shapes(variant: Variant, classes: int) -> dict[str, tuple[int, ...]]:
    """State-dict shapes written out from the model's description."""
    shapes: dict[str, tuple[int, ...]] = {"head.weight": (classes, variant.embed_dims[3])}
    shapes["head.bias"] = (classes,)

    def layer(name: str, *weight: int, bias: int | None = None) -> None:
        shapes[f"{name}.weight"] = weight
        shapes[f"{name}.bias"] = (weight[0] if bias is None else bias,)

    previous = variant.in_chans
    for i in range(4):
        dim, heads, cells = variant.embed_dims[i], variant.num_heads[i], variant.window_size**2
        kernel = 7 if i == 0 else 3
        layer(f"patch_embed{i + 1}.proj", dim, previous, kernel, kernel)
        layer(f"patch_embed{i + 1}.norm", dim)
        layer(f"norm{i + 1}", dim)
        previous = dim
        hidden = int(2 * int(dim * variant.mlp_ratios[i]) / 3)
        for j in range(variant.depths[i]):
            block = f"block{i + 1}.{j}"
            attn = f"{block}.attn"
            layer(f"{block}.norm1", dim)
            layer(f"{block}.norm2", dim)
            shapes[f"{attn}.temperature"] = (heads, 1, 1)
            shapes[f"{attn}.query_embedding"] = (heads, 1, 24)
            layer(f"{attn}.cpb_fc1", 512, 2)
            layer(f"{attn}.cpb_fc2", heads, 512)
            layer(f"{attn}.proj", dim, dim)
            if variant.sr_ratios[i] == 1:
                layer(f"{attn}.qkv", 3 * dim, dim)
            else:
                shapes[f"{attn}.relative_pos_bias_local"] = (heads, cells)
                shapes[f"{attn}.learnable_tokens"] = (heads, 24, cells)
                shapes[f"{attn}.learnable_bias"] = (heads, 1, cells)
                layer(f"{attn}.q", dim, dim)
                layer(f"{attn}.kv", 2 * dim, dim)
                layer(f"{attn}.sr", dim, dim, 1, 1)
                layer(f"{attn}.norm", dim)
            layer(f"{block}.mlp.fc1", 2 * hidden, dim)
            layer(f"{block}.mlp.dwconv.dwconv", hidden, 1, 3, 3)
            layer(f"{block}.mlp.fc2", dim, hidden)
    return shapes


@pytest.mark.parametrize("name", list(VARIANTS))
def test_parameter_names_and_shapes(name):
    variant = VARIANTS[name]
    model = meta_model(name)
    shapes = {key: tuple(x.shape) for key, x in model.state_dict().items()}
    assert shapes == published_shapes(variant, variant.default.num_classes)
    assert not list(model.buffers())


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameter_counts(name, count):
    assert sum(x.numel() for x in meta_model(name).parameters()) == count
    assert VARIANTS[name].parameters == count


def test_pico_is_small():
    count = sum(x.numel() for x in meta_model("transnext_pico").parameters())
    assert count == VARIANTS["transnext_pico"].parameters <= 1_000_000
    cost = count_multiply_adds(meta_model("transnext_pico"))
    assert VARIANTS["transnext_pico"].default.gmacs == pytest.approx(cost.total / 1e9, rel=0.005)


@pytest.mark.parametrize(("name", "size", "published"), COSTS)
def test_costs(name, size, published):
    cost = count_multiply_adds(meta_model(name), size)
    assert cost.total / 1e9 == pytest.approx(published, rel=0.005)
    checkpoint = next(c for c in VARIANTS[name].checkpoints if c.img_size == size)
    assert checkpoint.gmacs == published


def test_position_bias_costs_are_those_of_the_published_range():
    costs = [count_multiply_adds(meta_model(n), s).position_bias / 1e9 for n, s, _ in COSTS]
    assert min(costs) == pytest.approx(0.12, abs=0.005)
    assert max(costs) == pytest.approx(1.23, abs=0.005)


def test_cost_depends_on_the_mode():
    plain = count_multiply_adds(meta_model("transnext_micro"), (224, 320))
    linear = count_multiply_adds(meta_model("transnext_micro", fixed_pool_size=3), (224, 320))
    ablation = count_multiply_adds(
        meta_model("transnext_micro", attention="pixel_focused"), (224, 320)
    )
    backbone = count_multiply_adds(
        meta_model("transnext_micro", features_only=True, position_bias="extrapolate"), (224, 320)
    )
    assert linear.attention < plain.attention
    assert ablation.attention < plain.attention
    assert plain.projections - backbone.projections == 384 * 1000
    with pytest.raises(ValueError, match="image_size"):
        count_multiply_adds(meta_model("transnext_micro"), 31)


@pytest.mark.parametrize(
    ("name", "rate"),
    [
        ("transnext_micro", 0.15),
        ("transnext_tiny", 0.25),
        ("transnext_small", 0.45),
        ("transnext_base", 0.60),
        ("transnext_micro_AAAA", 0.15),
    ],
)
def test_drop_path_rises_linearly_over_the_network(name, rate):
    rates = [b.drop_path.rate for stage in meta_model(name).stages() for b in stage.blocks]
    assert rates == pytest.approx(torch.linspace(0, rate, len(rates)).tolist())


def test_norms_have_the_published_epsilons():
    for name, module in meta_model("transnext_micro").named_modules():
        if isinstance(module, torch.nn.LayerNorm):
            inner = name.startswith("patch_embed") or name.endswith("attn.norm")
            assert module.eps == (1e-5 if inner else 1e-6), name


def test_initialisation():
    torch.manual_seed(0)
    model = create_model("transnext_micro")
    modules = dict(model.named_modules())
    for name, value in model.named_parameters():
        owner, _, leaf = name.rpartition(".")
        module, x = modules[owner], value.detach()
        expected = None
        if leaf == "temperature":
            softplus = torch.nn.functional.softplus(x)
            torch.testing.assert_close(softplus, torch.full_like(x, 1 / 0.24))
        elif leaf == "learnable_bias":
            assert not x.any(), name
        elif leaf in ("query_embedding", "learnable_tokens"):
            expected = 0.02
        elif leaf == "relative_pos_bias_local":
            expected = 0.0004
        elif isinstance(module, torch.nn.LayerNorm):
            assert (x == (1.0 if leaf == "weight" else 0.0)).all(), name
        elif leaf == "bias":
            assert not x.any(), name
        elif isinstance(module, torch.nn.Linear):
            expected = 0.02
        else:
            kernel, groups = module.kernel_size, module.groups
            expected = math.sqrt(2 / (math.prod(kernel) * module.out_channels / groups))
        if expected is not None:
            margin = 5 / math.sqrt(2 * x.numel())  # five standard errors of a standard deviation
            assert x.std(correction=0).item() == pytest.approx(expected, rel=margin), name
            assert abs(x.mean().item()) <= 5 * expected / math.sqrt(x.numel()), name


def test_list_models():
    assert set(PARAMETERS) | {"transnext_pico"} == set(list_models())
    assert set(FILES) | {"transnext_pico.mnist5k"} == set(list_models(pretrained=True))


@pytest.mark.parametrize(("name", "path"), FILES.items())
def test_published_files(name, path):
    variant, checkpoint = find_checkpoint(name)
    assert f"{checkpoint.repo}/{checkpoint.file}" == f"DaiShiResearch/{path}"
    size = 384 if "384" in path else 256 if "256" in path else 224
    assert checkpoint.img_size == size
    assert variant.pretrain_size == (256 if "AAAA" in name else 224)
    assert checkpoint.crop_mode == ("squash" if size >= 384 else "center")
    assert checkpoint.crop_pct == (1.0 if size >= 384 else 0.875)


def test_tags_choose_the_image_size_and_leave_the_pretrain_size():
    model = meta_model("transnext_small.in1k_384")
    assert (model.img_size, model.pretrain_size) == (384, 224)
    assert model.pretrained_cfg["hf_hub_id"] == "DaiShiResearch/transnext-small-384-1k-ft-1k"
    assert model.pretrained_cfg["input_size"] == (3, 384, 384)
    assert meta_model("transnext_small").img_size == 224


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("transnext_tinny", "transnext_tiny"),
        ("transnext_micro_aaaa", "transnext_micro_AAAA"),
        ("transnext_small.in1k_512", "in1k, in1k_384"),
        ("resnet50", "known models: transnext_pico"),
    ],
)
def test_unknown_names_are_answered_with_known_ones(name, hint):
    with pytest.raises(ValueError, match=hint):
        create_model(name)


def test_a_name_must_be_text():
    with pytest.raises(TypeError, match="name: got int, needs a model's name"):
        create_model(3)


def test_unknown_options_are_named():
    with pytest.raises(TypeError, match="'drop_paths'"):
        create_model("transnext_pico", drop_paths=0.1)


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"img_size": 16}, "img_size"),
        ({"img_size": (224, 256)}, "img_size"),
        ({"pretrain_size": 0}, "pretrain_size"),
        ({"num_classes": -1}, "num_classes"),
        ({"in_chans": 0}, "in_chans"),
        ({"window_size": 0}, "window_size"),
        ({"fixed_pool_size": 0}, "fixed_pool_size"),
        ({"position_bias": "nearest"}, "position_bias"),
        ({"attention": "linear"}, "attention"),
        ({"global_pool": "max"}, "global_pool"),
        ({"depths": (1, 1, 1)}, "depths"),
        ({"num_heads": (1, 2, 4, 0)}, "num_heads"),
        ({"num_heads": (1, 2, 4, 7)}, "num_heads"),
        ({"out_indices": (0,)}, "features_only"),
        ({"features_only": True, "out_indices": (4,)}, "out_indices"),
        ({"features_only": True, "out_indices": ()}, "out_indices"),
        ({"features_only": True, "out_indices": 5}, "out_indices"),
        ({"features_only": True, "out_indices": (0.5,)}, "out_indices"),
        ({"features_only": True, "out_indices": 2.0}, "out_indices"),
        ({"num_classes": 2.5}, "num_classes"),
        ({"num_classes": True}, "num_classes"),
        ({"embed_dims": 24}, "embed_dims"),
        ({"depths": (1, 1, 2, 1.5)}, "depths"),
        ({"mlp_ratios": (4, 4, 4, "4")}, "mlp_ratios"),
        ({"drop_path_rate": 1.0}, "drop_path_rate"),
        ({"drop_path_rate": -0.1}, "drop_path_rate: .*got -0.1"),
        ({"drop_rate": 2.0}, "drop_rate"),
        ({"proj_drop_rate": "0"}, "proj_drop_rate"),
        ({"attn_drop_rate": -1}, "attn_drop_rate"),
        ({"attn_drop_rate": 1.5}, "attn_drop_rate"),
        ({"backend": "gpu"}, "backend: got 'gpu'"),
    ],
)
def test_bad_options_are_named(options, name):
    with pytest.raises(ValueError, match=f"^{name}" if name != "features_only" else name):
        meta_model("transnext_pico", **options)
