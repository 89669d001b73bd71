"""Models as folders: what is saved is built again, by this package, timm and transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

from transnext_models import VARIANTS, TransNeXt, create_model
from transnext_models.checkpoints import read_weights
from transnext_models.classification.classifier import Classifier
from transnext_models.classification.preprocess import Preprocess
from transnext_models.sharing import pretrained_config, read_config

NAMES = [f"digit {index}" for index in range(10)]
KNOWN = ("depths", "img_size")


def same(model: nn.Module, other: nn.Module) -> bool:
    """Whether both have the same weights, bit for bit."""
    state, others = model.state_dict(), other.state_dict()
    return list(state) == list(others) and all(torch.equal(state[n], others[n]) for n in state)


@pytest.fixture
def model() -> TransNeXt:
    torch.manual_seed(0)
    made = create_model("transnext_pico").eval()
    nn.init.normal_(made.head.weight, std=0.2)
    return made


@pytest.fixture
def folder(model: TransNeXt, tmp_path: Path) -> Path:
    return model.save_pretrained(tmp_path / "pico", class_names=NAMES, results={"top-1": 98.8})


MADE: dict[str, dict[str, Any]] = {
    "as it is": {},
    "linear mode": {"fixed_pool_size": 3},
    "trained at another size": {"img_size": 96, "pretrain_size": 96},
    "other images and classes": {"in_chans": 1, "num_classes": 7},
    "interpolated": {"position_bias": "interpolate", "length_scaling": "training"},
    "no head": {"num_classes": 0},
    "no pooling": {"global_pool": ""},
    "pixel-focused": {"attention": "pixel_focused"},
    "a backbone": {"features_only": True, "out_indices": (0, 2)},
    "another network": {"depths": (1, 2, 1, 1), "window_size": 5, "mlp_ratios": (4, 3.5, 4, 2)},
}


@pytest.mark.parametrize("options", MADE.values(), ids=MADE)
def test_what_is_saved_is_built_again(tmp_path, options):
    torch.manual_seed(1)
    model = create_model("transnext_pico", backend="torch", drop_path_rate=0.3, **options).eval()
    model.save_pretrained(tmp_path / "a")
    again = TransNeXt.from_pretrained(tmp_path / "a", backend="torch")
    assert same(model, again)
    assert not again.training
    images = torch.randn(2, model.in_chans, 64, 96)
    with torch.inference_mode():
        outputs, others = model(images), again(images)
    for output, other in zip(
        outputs if isinstance(outputs, list) else [outputs],
        others if isinstance(others, list) else [others],
        strict=True,
    ):
        assert torch.equal(output, other)
    again.save_pretrained(tmp_path / "b")
    for name in ("config.json", "model.safetensors"):
        first, second = ((tmp_path / side / name).read_bytes() for side in "ab")
        if name == "config.json":
            assert first == second
        else:
            assert (
                read_weights(tmp_path / "a" / name).metadata
                == read_weights(tmp_path / "b" / name).metadata
            )


def test_a_network_without_a_name(tmp_path):
    arguments = {"embed_dims": (24, 48, 72, 96), "num_heads": (1, 2, 3, 4), "depths": (1, 1, 1, 1)}
    model = TransNeXt(**arguments, num_classes=3, img_size=64).eval()
    model.save_pretrained(tmp_path)
    assert same(model, TransNeXt.from_pretrained(tmp_path))
    assert same(model, create_model(f"local-dir:{tmp_path}", pretrained=True))


def test_every_variant_names_itself():
    """Under its own name only what differs is written, for every published model."""
    for variant in VARIANTS.values():
        with torch.device("meta"):
            model = create_model(variant.name)
        from transnext_models.sharing.config import model_config, nearest_variant

        arguments = model._arguments()
        assert nearest_variant(arguments, {}) is variant
        config = model_config(variant, arguments, model.pretrained_cfg, None)
        assert config["model_args"] == {}
        assert config["pretrained_cfg"]["mean"] == variant.default.mean


def test_changes_after_it_was_built_are_saved(model, tmp_path):
    model.reset_classifier(4)
    model.save_pretrained(tmp_path, class_names=list("abcd"))
    again = TransNeXt.from_pretrained(tmp_path)
    assert same(model, again)
    assert again.pretrained_cfg["label_names"] == tuple("abcd")


def test_half_precision_comes_back_exactly(model, tmp_path):
    model.half().save_pretrained(tmp_path)
    again = TransNeXt.from_pretrained(tmp_path)
    assert next(again.parameters()).dtype == torch.float32
    assert same(model, again.half())


@pytest.mark.parametrize("change", ["adapter", "pruned", "removed"])
def test_a_model_that_would_not_come_back_is_refused(model, tmp_path, change):
    if change == "adapter":
        model.block1[0].attn.q.lora = nn.Linear(2, 2)
    elif change == "pruned":
        model.prune_intermediate_layers([1])
    else:
        model.block3[0].mlp.fc2 = nn.Identity()
    with pytest.raises(ValueError, match=r"model: its entry .* is not as it was built"):
        model.save_pretrained(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_names_of_classes_are_checked(model, tmp_path):
    with pytest.raises(ValueError, match="class_names: got 2 names, needs 10"):
        model.save_pretrained(tmp_path, class_names=["a", "b"])
    with pytest.raises(ValueError, match="class_names: needs a sequence of names"):
        model.save_pretrained(tmp_path, class_names="abcdefghij")
    assert not list(tmp_path.iterdir())


def test_a_card_that_is_there_stays(model, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    model.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"


def test_card(folder):
    card = (folder / "README.md").read_text("utf-8")
    assert card.startswith("---\nlibrary_name: timm\n")
    for part in ("| top-1 | 98.8 |", "0.7 M", 'from_pretrained("OWNER/pico")', "shi2023transnext"):
        assert part in card
    assert "Published numbers" not in card, "none are published of this one"


def test_card_has_the_published_numbers(tmp_path):
    with torch.device("meta"):
        model = create_model("transnext_small")
    from transnext_models.sharing.card import model_card
    from transnext_models.sharing.config import model_config

    variant = VARIANTS["transnext_small"]
    config = model_config(variant, model._arguments(), model.pretrained_cfg, None)
    card = model_card("me/small", variant, config, variant.parameters)
    assert "| transnext_small.in1k | 224 | 10.29 G | 84.7 | 47.1 | 43.9 | 52.5 |" in card
    assert "| transnext_small.in1k_384 | 384 | 32.02 G | 86.0 | 58.3 | – | 56.4 |" in card
    assert "49.7 M" in card
    assert "as published for the weights of the paper's author" in card


# -- options over what was saved ------------------------------------------------------------------


def test_options(folder, model):
    other = TransNeXt.from_pretrained(folder, num_classes=3, fixed_pool_size=2)
    assert other.get_classifier().out_features == 3
    assert other.fixed_pool_size == 2
    assert torch.equal(other.block1[0].attn.q.weight, model.block1[0].attn.q.weight)
    assert same(TransNeXt.from_pretrained(folder, features_only=True).block1, model.block1)
    with pytest.raises(TypeError, match="from_pretrained: got unknown option 'depth'"):
        TransNeXt.from_pretrained(folder, depth=3)


def test_create_model_takes_folders(folder, model):
    made = create_model(f"local-dir:{folder}", pretrained=True)
    assert same(made, model)
    assert made.training
    fresh = create_model(f"local-dir:{folder}", img_size=96)
    assert (fresh.num_classes, fresh.img_size) == (10, 96)
    assert not same(fresh, model)
    with pytest.raises(ValueError, match="has its own, needs pretrained=True"):
        create_model(f"local-dir:{folder}", weights=folder / "model.safetensors")
    with pytest.raises(TypeError, match="unknown option 'depth'"):
        create_model(f"local-dir:{folder}", depth=3)


def test_classifier_of_a_folder(folder, model):
    classifier = Classifier.load(f"local-dir:{folder}", device="cpu")
    assert classifier.labels == NAMES
    assert classifier.preprocess == Preprocess.of(VARIANTS["transnext_pico"].default)
    (result,) = classifier.classify(Image.new("RGB", (64, 64), "white"))
    assert result.predictions[0].label in NAMES
    with pytest.raises(ValueError, match="needs one of them"):
        Classifier.load(f"local-dir:{folder}", folder / "model.safetensors")


def test_preprocessing_is_the_one_that_was_saved(model, folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    said = {"mean": [0.5, 0.4, 0.3], "std": [1, 2, 3], "crop_pct": 0.9, "crop_mode": "center"}
    config["pretrained_cfg"] |= {**said, "input_size": [3, 96, 96], "interpolation": "bilinear"}
    path.write_text(json.dumps(config))
    preprocess = Classifier.load(f"local-dir:{folder}", device="cpu").preprocess
    assert (preprocess.mean, preprocess.std) == ((0.5, 0.4, 0.3), (1, 2, 3))
    assert preprocess.interpolation == "bilinear"


def test_trained_weights_keep_their_names_of_classes(model, tmp_path):
    """Of ``transnext train``: they are in the weights' metadata."""
    from safetensors.torch import save_file

    path = tmp_path / "model.safetensors"
    save_file(model.state_dict(), path, {"class_names": json.dumps(NAMES)})
    made = create_model("transnext_pico", weights=path)
    made.save_pretrained(tmp_path / "shared")
    assert json.loads((tmp_path / "shared" / "config.json").read_text())["label_names"] == NAMES


# -- files of somebody else -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(architecture="resnet50"), "architecture: got 'resnet50', needs one of"),
        (lambda c: c.pop("architecture"), "architecture: got none"),
        (lambda c: c.update(model_args={"__class__": 1}), "model_args: got unknown '__class__'"),
        (lambda c: c.update(model_args=[1]), "model_args: needs an object"),
        (lambda c: c.update(model_args={"depths": [1, 10**9, 1, 1]}), "depths: got .* more than"),
        (lambda c: c.update(pretrained_cfg=3), "pretrained_cfg: needs an object"),
        (lambda c: c.update(num_classes="ten"), "num_classes: got 'ten', needs an int"),
        (lambda c: c["pretrained_cfg"].update(input_size=[3, 64]), "input_size: got"),
        (lambda c: c["pretrained_cfg"].update(mean=["a"]), "mean: got"),
        (lambda c: c["pretrained_cfg"].update(mean=[0.5]), "mean: .* needs one for each channel"),
        (lambda c: c["pretrained_cfg"].update(std=[1, 0, 1]), "std: got"),
        (lambda c: c["pretrained_cfg"].update(crop_mode=1), "crop_mode: got 1, needs a text"),
        (lambda c: c["pretrained_cfg"].update(crop_pct="1"), "crop_pct: got '1', needs a number"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_none(folder, change: Callable[[dict[str, Any]], object], message):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    change(config)
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=message) as error:
        TransNeXt.from_pretrained(folder)
    assert str(error.value).startswith(str(path))


@pytest.mark.parametrize("content", [b"", b"[1]", b"[" * 100_000, b"\xff", b" " * (5 << 20)])
def test_a_configuration_that_is_no_object(folder, content):
    (folder / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config\.json: (it is no JSON|needs an|it has more)"):
        TransNeXt.from_pretrained(folder)


def test_weights_that_do_not_fit_are_told_before_a_model_is_built(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config["model_args"]["embed_dims"] = [24 * 10**5] * 4  # 10 TB
    config["model_args"]["num_heads"] = [10**5] * 4
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match="does not fit the model"):
        TransNeXt.from_pretrained(folder)


def test_nothing_there(tmp_path):
    with pytest.raises(ValueError, match=r"source: got .*, needs a folder with config\.json"):
        create_model(f"local-dir:{tmp_path / 'gone'}", pretrained=True)
    create_model("transnext_pico").save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors is not there"):
        TransNeXt.from_pretrained(tmp_path)


def test_older_files_of_timm_are_one_object(folder, model):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    flat = {**config["pretrained_cfg"], "architecture": "transnext_pico", "num_features": 144}
    path.write_text(json.dumps(flat))
    assert same(TransNeXt.from_pretrained(folder), model)
    assert read_config(path, KNOWN).checkpoint.mean == VARIANTS["transnext_pico"].default.mean


def test_a_checkpoint_survives_timms_terms(tmp_path):
    for variant in VARIANTS.values():
        for checkpoint in variant.checkpoints:
            path = tmp_path / "config.json"
            told = pretrained_config(variant, checkpoint)
            path.write_text(json.dumps({"architecture": variant.name, "pretrained_cfg": told}))
            read = read_config(path, KNOWN).checkpoint
            assert Preprocess.of(read) == Preprocess.of(checkpoint)


# -- timm -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"img_size": 96, "in_chans": 1, "pretrain_size": 96}])
def test_timm_builds_what_was_saved(tmp_path, options):
    timm = pytest.importorskip("timm")
    model = create_model("transnext_pico", **options).eval()
    model.save_pretrained(tmp_path, class_names=NAMES)
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    assert type(theirs) is TransNeXt
    assert same(theirs, model)
    assert (theirs.img_size, theirs.pretrain_size) == (model.img_size, model.pretrain_size)
    assert theirs.pretrained_cfg["label_names"] == NAMES
    config = timm.data.resolve_model_data_config(theirs)
    assert tuple(config["input_size"]) == (model.in_chans, model.img_size, model.img_size)
    images = torch.randn(1, model.in_chans, 64, 96)
    maps = timm.create_model(f"local-dir:{tmp_path}", pretrained=True, features_only=True)
    assert [m.shape[1] for m in maps.eval()(images)] == [24, 48, 96, 144]


def test_what_timm_saves_is_built_here(model, tmp_path):
    pytest.importorskip("timm")
    import timm.models

    theirs = timm.create_model("transnext_pico", num_classes=4, img_size=96, fixed_pool_size=2)
    timm.models.save_for_hf(
        theirs, tmp_path, {"label_names": list("abcd")}, safe_serialization=True
    )
    ours = TransNeXt.from_pretrained(tmp_path)
    assert same(ours, theirs)
    assert ours.fixed_pool_size == 2
    assert Classifier.load(f"local-dir:{tmp_path}", device="cpu").labels == list("abcd")
