"""The model interface of timm, on our models and through timm itself."""

from __future__ import annotations

import argparse
import copy
import re
import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from small_model import ARCHITECTURE, CLASSES, images, small_model
from transnext_models import create_model, list_models
from transnext_models.layers.features import FeatureInfo

WIDTH = ARCHITECTURE["embed_dims"][-1]


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def x():
    return images(64, 96)


def test_features_and_head_make_the_forward(model, x):
    features = model.forward_features(x)
    assert features.shape == (2, WIDTH, 2, 3)
    torch.testing.assert_close(model.forward_head(features), model(x))
    pre_logits = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(pre_logits, features.mean(dim=(2, 3)))
    torch.testing.assert_close(model.get_classifier()(pre_logits), model(x))


def test_without_pooling_the_classifier_acts_on_each_position(x):
    unpooled = small_model(global_pool="")
    assert unpooled(x).shape == (2, CLASSES, 2, 3)
    torch.testing.assert_close(unpooled(x).mean(dim=(2, 3)), small_model()(x))
    assert unpooled.forward_head(unpooled.forward_features(x), pre_logits=True).shape[1] == WIDTH
    assert small_model(global_pool="", num_classes=0)(x).shape == (2, WIDTH, 2, 3)


def test_without_classes_the_pooled_features_come_out(model, x):
    expected = model.forward_head(model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(small_model(num_classes=0)(x), expected)


def test_reset_classifier(x):
    model = small_model().float()
    model.reset_classifier(7)
    assert (model.num_classes, model.get_classifier().out_features) == (7, 7)
    assert not model.get_classifier().training
    assert model(x.float()).shape == (2, 7)
    model.double().reset_classifier(3)
    assert model(x).dtype == torch.float64
    model.reset_classifier(0, "")
    assert isinstance(model.get_classifier(), torch.nn.Identity)
    assert model(x).shape == (2, WIDTH, 2, 3)
    with pytest.raises(ValueError, match="global_pool"):
        model.reset_classifier(2, "median")
    with pytest.raises(ValueError, match="num_classes"):
        model.reset_classifier(-2)


def test_intermediates(model, x):
    expected = small_model(features_only=True, position_bias="extrapolate")(x)
    last, maps = model.forward_intermediates(x)
    torch.testing.assert_close(last, model.forward_features(x))
    assert len(maps) == 4
    for got, wanted in zip(maps, expected, strict=True):
        torch.testing.assert_close(got, wanted)

    (second, fourth) = model.forward_intermediates(x, indices=[1, -1], intermediates_only=True)
    torch.testing.assert_close(second, expected[1])
    torch.testing.assert_close(fourth, expected[3])
    assert len(model.forward_intermediates(x, indices=3, intermediates_only=True)) == 3

    tokens = model.forward_intermediates(x, 1, output_fmt="NLC", intermediates_only=True)[0]
    torch.testing.assert_close(tokens, expected[3].flatten(2).transpose(1, 2))
    assert tokens.is_contiguous()


def test_stop_early_runs_no_later_stage(x):
    model = small_model()
    model.patch_embed3 = None
    last, maps = model.forward_intermediates(x, indices=[0, 1], stop_early=True)
    assert last is maps[1]
    with pytest.raises(TypeError):
        model.forward_intermediates(x, indices=[0, 1])


@pytest.mark.parametrize(
    ("keywords", "name"),
    [
        ({"indices": [4]}, "indices"),
        ({"indices": [-5]}, "indices"),
        ({"indices": 0}, "indices"),
        ({"indices": []}, "indices"),
        ({"output_fmt": "NHWC"}, "output_fmt"),
    ],
)
def test_bad_intermediates_are_named(model, x, keywords, name):
    with pytest.raises(ValueError, match=name):
        model.forward_intermediates(x, **keywords)


def test_pruning_leaves_the_stages_taken(x):
    model = small_model()
    maps = model.forward_intermediates(x, intermediates_only=True)
    assert model.prune_intermediate_layers([0, -3]) == [0, 1]
    assert {name.split(".")[0] for name in model.state_dict()} == {
        f"{part}{i}" for part in ("patch_embed", "block", "norm") for i in (1, 2)
    }
    torch.testing.assert_close(model(x), maps[1])
    assert len(model.feature_info) == model.num_stages == 2
    assert model.num_features == ARCHITECTURE["embed_dims"][1]

    whole = small_model()
    whole.prune_intermediate_layers(1, prune_head=False)
    torch.testing.assert_close(whole(x), small_model()(x))


def test_feature_info():
    model = small_model()
    assert isinstance(model.feature_info, FeatureInfo)
    assert model.feature_info.channels() == list(ARCHITECTURE["embed_dims"])
    assert model.feature_info.reduction() == [4, 8, 16, 32]
    for name in model.feature_info.module_name():
        model.get_submodule(name)
    backbone = small_model(features_only=True, out_indices=(1, 3))
    assert backbone.feature_info.out_indices == (1, 3)
    assert backbone.feature_info.get_dicts(["num_chs"]) == [{"num_chs": 16}, {"num_chs": 32}]
    assert backbone.feature_info.get_dicts() == [backbone.feature_info[1], backbone.feature_info[3]]
    assert copy.deepcopy(backbone.feature_info).channels() == [16, 32]


def test_no_weight_decay_names_parameters(model):
    names = model.no_weight_decay()
    parameters = dict(model.named_parameters())
    assert names < set(parameters)
    leaves = {re.sub(r"^block\d\.\d\.attn\.", "", name) for name in names}
    assert leaves == {
        "query_embedding",
        "relative_pos_bias_local",
        "temperature",
        "cpb_fc1.weight",
        "cpb_fc1.bias",
        "cpb_fc2.weight",
        "cpb_fc2.bias",
    }


def test_group_matcher_orders_parameters_by_depth(model):
    timm_models = pytest.importorskip("timm.models")
    for coarse, groups in ((True, 6), (False, 10)):
        layers = timm_models.group_parameters(model, model.group_matcher(coarse), reverse=True)
        assert set(layers) == {name for name, _ in model.named_parameters()}
        assert len(set(layers.values())) == groups
        order = [
            "patch_embed1.proj.weight",
            "block1.0.norm1.weight",
            "patch_embed2.proj.weight",
            "block3.0.norm1.weight",
            "block3.1.norm1.weight",
            "patch_embed4.proj.weight",
            "norm4.weight",  # with the block before it
            "head.weight",
        ]
        depths = [layers[name] for name in order]
        assert depths == sorted(depths)
        if not coarse:
            assert len(set(depths)) == len(depths)


def test_timm_creates_what_we_create(x):
    timm = pytest.importorskip("timm")
    ours = create_model("transnext_pico", num_classes=7, drop_path_rate=0.2).eval()
    theirs = timm.create_model("transnext_pico", num_classes=7, drop_path_rate=0.2).eval()
    assert type(theirs) is type(ours)
    theirs.load_state_dict(ours.state_dict())
    torch.testing.assert_close(theirs(x.float()), ours(x.float()))
    assert theirs.block4[0].drop_path.rate == ours.block4[0].drop_path.rate == 0.2
    assert set(timm.list_models("transnext_*")) == set(list_models())
    assert set(timm.list_pretrained("transnext_*")) == set(list_models(pretrained=True))


def test_timm_knows_how_to_prepare_images():
    timm = pytest.importorskip("timm")
    for name, size, crop in (
        ("transnext_pico", 64, "squash"),
        ("transnext_micro", 224, "center"),
        ("transnext_micro_AAAA", 256, "center"),
    ):
        for make in (create_model, timm.create_model):
            with torch.device("meta"):
                model = make(name)
            config = timm.data.resolve_model_data_config(model)
            assert (config["input_size"], config["crop_mode"]) == ((3, size, size), crop)
    with torch.device("meta"):
        fine_tuned = timm.create_model("transnext_base.in1k_384")
    assert timm.data.resolve_model_data_config(fine_tuned)["input_size"] == (3, 384, 384)
    assert fine_tuned.pretrain_size == 224


def test_timm_makes_a_feature_backbone(x):
    timm = pytest.importorskip("timm")
    backbone = timm.create_model("transnext_pico", features_only=True, out_indices=(1, 2)).eval()
    assert backbone.feature_info.channels() == [48, 96]
    assert backbone.feature_info.reduction() == [8, 16]
    ours = create_model("transnext_pico", features_only=True, out_indices=(1, 2)).eval()
    ours.load_state_dict(backbone.model.state_dict())
    for got, wanted in zip(backbone(x.float()), ours(x.float()), strict=True):
        torch.testing.assert_close(got, wanted)


def test_timm_loads_weights_with_our_reader(tmp_path, x):
    timm = pytest.importorskip("timm")
    ours = create_model("transnext_pico").eval()
    path = tmp_path / "weights.safetensors"
    save_file(ours.state_dict(), path)
    overlay = {"file": str(path)}
    theirs = timm.create_model("transnext_pico", pretrained=True, pretrained_cfg_overlay=overlay)
    torch.testing.assert_close(theirs.eval()(x.float()), ours(x.float()))
    other = timm.create_model(
        "transnext_pico", pretrained=True, pretrained_cfg_overlay=overlay, num_classes=3, in_chans=1
    )
    assert other.eval()(x[:, :1].float()).shape == (2, 3)
    torch.testing.assert_close(other.block1[0].attn.q.weight, ours.block1[0].attn.q.weight)


def test_timm_downloads_published_weights(monkeypatch, tmp_path):
    timm = pytest.importorskip("timm")
    ours = create_model("transnext_micro")
    path = tmp_path / "transnext_micro_224_1k.pth"
    # As published: more than a state dict, which timm's own reader would refuse.
    torch.save({"model": ours.state_dict(), "args": argparse.Namespace(lr=1e-3)}, path)
    asked = []

    def download(repo, filename, **_):
        asked.append((repo, filename))
        return str(path)

    monkeypatch.setattr("timm.models._hub.hf_hub_download", download)
    model = timm.create_model("transnext_micro", pretrained=True, num_classes=3)
    assert asked == [("DaiShiResearch/transnext-micro-224-1k", path.name)]
    assert model.get_classifier().out_features == 3
    assert torch.equal(model.block3[14].attn.kv.weight, ours.block3[14].attn.kv.weight)


def test_importing_the_models_registers_them_with_a_timm_imported_later():
    pytest.importorskip("timm")
    code = (
        "import sys, transnext_models\n"
        "assert 'timm' not in sys.modules, 'imported, which takes seconds'\n"
        "import timm\n"
        "assert timm.is_model('transnext_tiny')\n"
        "finders = [type(finder).__module__ for finder in sys.meta_path]\n"
        "assert not [name for name in finders if name.startswith('transnext_models.')]\n"
        "model = timm.create_model('transnext_pico')\n"
        "assert type(model) is transnext_models.TransNeXt\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_the_models_works_without_timm():
    code = (
        "import sys\n"
        "class Nothing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'timm':\n"
        "            raise ModuleNotFoundError('No module named timm', name='timm')\n"
        "sys.meta_path.insert(0, Nothing())\n"
        "import transnext_models\n"
        "assert transnext_models.create_model('transnext_pico').num_classes == 10\n"
        "try:\n"
        "    import timm\n"
        "except ModuleNotFoundError:\n"
        "    pass\n"
        "else:\n"
        "    raise AssertionError\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
