"""A file's weights enter a model whole, or not at all; and become safetensors."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from small_model import ARCHITECTURE, images, small_model
from transnext_models import VARIANTS, TransNeXt, create_model
from transnext_models.checkpoints import (
    CheckpointError,
    convert,
    infer_architecture,
    load_checkpoint,
    read_state_dict,
    read_weights,
)
from transnext_models.checkpoints import convert as convert_function


@pytest.fixture(scope="module")
def source() -> TransNeXt:
    return small_model().float()


@pytest.fixture
def file(tmp_path, source) -> Path:
    path = tmp_path / "small.pth"
    torch.save({"model": source.state_dict()}, path)
    return path


def fresh(**options: Any) -> TransNeXt:
    torch.manual_seed(0)
    return TransNeXt(**{**ARCHITECTURE, **options}).eval()


def snapshot(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def unchanged(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


# -- loading --------------------------------------------------------------------------------------


def test_loaded_model_computes_the_same(file, source):
    model = fresh()
    report = load_checkpoint(model, file)
    assert report.loaded == len(source.state_dict())
    assert report.kept == report.unused == ()
    batch = images(64).float()
    assert torch.equal(model(batch), source(batch))


def test_loading_replaces_cached_position_bias(file, source):
    model = fresh()
    batch = images(64).float()
    model(batch)  # fills the caches of evaluation mode
    load_checkpoint(model, file)
    assert torch.equal(model(batch), source(batch))


def test_half_precision_file(tmp_path, source):
    path = tmp_path / "half.pth"
    torch.save({name: value.half() for name, value in source.state_dict().items()}, path)
    model = fresh()
    load_checkpoint(model, path)
    for name, value in source.state_dict().items():
        assert model.state_dict()[name].dtype == torch.float32
        assert torch.equal(model.state_dict()[name], value.half().float())


def test_values_too_large_for_the_model(file, source, tmp_path):
    path = tmp_path / "large.pth"
    state = {name: value.double() for name, value in source.state_dict().items()}
    state["norm1.bias"][0] = 1e300
    torch.save(state, path)
    model = fresh()
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=r"large\.pth.*'norm1\.bias'.*too large for.*float32"):
        load_checkpoint(model, path)
    assert unchanged(model, before)


def test_backbone_takes_a_classifier(file, source):
    backbone = fresh(features_only=True)
    report = load_checkpoint(backbone, file)
    assert report.unused == ("head.weight", "head.bias")
    assert torch.equal(backbone.state_dict()["norm4.weight"], source.state_dict()["norm4.weight"])


def test_backbone_of_some_stages_takes_a_classifier(file):
    backbone = fresh(features_only=True, out_indices=(0, 1))
    report = load_checkpoint(backbone, file)
    assert report.kept == ()
    assert {name.split(".")[0][-1] for name in report.unused if "head" not in name} == {"3", "4"}


def test_classifier_needs_a_head(tmp_path, source):
    path = tmp_path / "detector.pth"
    state = {f"backbone.{name}": v for name, v in source.state_dict().items() if "head" not in name}
    torch.save({"state_dict": {**state, "neck.a": torch.zeros(1)}, "meta": {}}, path)
    model = fresh()
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=r"no classification head.*num_classes=0.*reset_head"):
        load_checkpoint(model, path)
    assert unchanged(model, before)
    report = load_checkpoint(model, path, reset_head=True)
    assert report.kept == ("head.weight", "head.bias")
    assert torch.equal(model.state_dict()["head.weight"], before["head.weight"])


def test_other_number_of_classes(file, source):
    model = fresh(num_classes=7)
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=r"for 5 classes, the model's for 7; .*num_classes=5"):
        load_checkpoint(model, file)
    assert unchanged(model, before)
    load_checkpoint(model, file, reset_head=True)
    assert torch.equal(model.state_dict()["head.weight"], before["head.weight"])
    assert torch.equal(model.state_dict()["norm1.bias"], source.state_dict()["norm1.bias"])


@pytest.mark.parametrize("strict", [True, False])
def test_other_shapes_change_nothing(file, strict):
    model = fresh(embed_dims=(8, 16, 24, 40))
    before = snapshot(model)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, file, strict=strict)
    message = str(error.value)
    assert "small.pth" in message
    assert "widths 8 16 24 32" in message
    assert "widths 8 16 24 40" in message
    assert (
        "of another shape (patch_embed4.proj.weight: file [32, 24, 3, 3], model [40, 24, 3, 3]"
        in message
    )
    assert "more)" in message
    assert unchanged(model, before)


def test_missing_and_unexpected_entries_change_nothing(tmp_path, source):
    path = tmp_path / "odd.pth"
    state = dict(source.state_dict())
    del state["block3.1.norm1.weight"], state["norm2.bias"]
    state["block1.0.attn.extra"] = torch.zeros(2)
    torch.save(state, path)
    model = fresh()
    before = snapshot(model)
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(model, path)
    assert "2 missing (norm2.bias, block3.1.norm1.weight)" in str(error.value)
    assert "1 not in the model (block1.0.attn.extra)" in str(error.value)
    assert unchanged(model, before)
    report = load_checkpoint(model, path, strict=False)
    assert set(report.kept) == {"block3.1.norm1.weight", "norm2.bias"}
    assert report.unused == ("block1.0.attn.extra",)
    assert torch.equal(model.state_dict()["norm1.bias"], source.state_dict()["norm1.bias"])
    assert torch.equal(model.state_dict()["norm2.bias"], before["norm2.bias"])


def test_weights_of_something_else(tmp_path):
    path = tmp_path / "resnet.pth"
    torch.save({"conv1.weight": torch.zeros(4, 3, 7, 7), "fc.bias": torch.zeros(10)}, path)
    model = fresh()
    with pytest.raises(CheckpointError, match=r"resnet\.pth: .*not those of a TransNeXt"):
        load_checkpoint(model, path)
    with pytest.raises(CheckpointError, match="none of its entries"):
        load_checkpoint(model, path, strict=False)


def test_broken_file_changes_nothing(file):
    file.write_bytes(file.read_bytes()[:-2000])
    model = fresh()
    before = snapshot(model)
    with pytest.raises(CheckpointError, match=r"small\.pth"):
        load_checkpoint(model, file)
    assert unchanged(model, before)


def test_meta_model_is_an_error(file):
    with torch.device("meta"):
        model = fresh()
    with pytest.raises(ValueError, match="to_empty"):
        load_checkpoint(model, file)


# -- which model a file is for --------------------------------------------------------------------


@pytest.mark.parametrize("name", list(VARIANTS))
def test_every_variant_is_recognised(name):
    with torch.device("meta"):
        state = create_model(name).state_dict()
    found = infer_architecture(state)
    assert found.variant.name == name
    assert found.num_classes == VARIANTS[name].default.num_classes
    backbone = {key: value for key, value in state.items() if not key.startswith("head.")}
    assert infer_architecture(backbone).num_classes is None
    assert str(infer_architecture(backbone)) == f"{name} without a head"


def test_unknown_architecture_is_described(source):
    found = infer_architecture(source.state_dict())
    assert found.variant is None
    assert found.depths == (1, 1, 2, 1)
    assert found.num_heads == (1, 2, 2, 4)
    assert found.window_size == 3
    assert str(found) == "a TransNeXt of widths 8 16 24 32 and depths 1 1 2 1 with 5 classes"


def test_other_state_dicts_have_no_architecture(source):
    assert infer_architecture({}) is None
    assert infer_architecture({"fc.weight": torch.zeros(1)}) is None
    state = dict(source.state_dict())
    state["block1.0.attn.temperature"] = torch.zeros(())
    assert infer_architecture(state) is None


def test_wrong_variant_names_both(tmp_path):
    torch.save(create_model("transnext_pico").state_dict(), tmp_path / "pico.pth")
    with torch.device("meta"):
        micro = create_model("transnext_micro")
    micro = micro.to_empty(device="cpu")
    with pytest.raises(CheckpointError) as error:
        load_checkpoint(micro, tmp_path / "pico.pth")
    assert "pico.pth" in str(error.value)
    assert "transnext_pico with 10 classes" in str(error.value)
    assert "transnext_micro with 1000 classes" in str(error.value)


# -- conversion -----------------------------------------------------------------------------------


def test_convert_keeps_values_and_says_where_they_came_from(tmp_path):
    model = create_model("transnext_pico")
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "transnext_pico.safetensors")
    source = tmp_path / "transnext_pico.safetensors"  # named as the published file
    target = tmp_path / "out.safetensors"
    done = convert(source, target)
    result = read_weights(target)
    assert result.state_dict.keys() == model.state_dict().keys()
    for name, value in model.state_dict().items():
        assert torch.equal(result.state_dict[name], value)
    assert dict(result.metadata) == dict(done.metadata)
    assert result.metadata == {
        "format": "pt",
        "family": "transnext",
        "variant": "transnext_pico",
        "num_classes": "10",
        "img_size": "64",
        "pretrain_size": "64",
        "source_file": "transnext_pico.safetensors",
        "source_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
    }
    with safe_open(target, framework="pt") as reader:  # readable by the library itself
        assert set(reader.keys()) == set(model.state_dict())


def test_convert_in_another_type(tmp_path, file, source):
    target = tmp_path / "half.safetensors"
    convert(file, target, dtype=torch.float16)
    for name, value in read_state_dict(target).items():
        assert torch.equal(value, source.state_dict()[name].half())


def test_convert_keeps_only_the_backbone(tmp_path, source):
    path = tmp_path / "detector.pth"
    state = {f"backbone.{name}": v for name, v in source.state_dict().items() if "head" not in name}
    torch.save({"state_dict": {**state, "neck.a": torch.zeros(1)}, "meta": {}}, path)
    done = convert(path, tmp_path / "out.safetensors")
    assert done.weights.left_out == 1
    assert done.metadata["num_classes"] == "0"
    assert set(read_state_dict(done.path)) == set(state_names(source))


def state_names(model: TransNeXt) -> list[str]:
    return [name for name in model.state_dict() if not name.startswith("head.")]


def test_convert_twice_keeps_metadata(tmp_path, file):
    first = convert(file, tmp_path / "a.safetensors")
    second = convert(first.path, tmp_path / "b.safetensors")
    assert second.metadata == first.metadata
    assert second.metadata["source_file"] == "small.pth"
    assert read_state_dict(second.path).keys() == read_state_dict(file).keys()


def test_convert_does_not_overwrite_unasked(tmp_path, file):
    target = tmp_path / "out.safetensors"
    target.write_bytes(b"precious")
    with pytest.raises(CheckpointError, match="exists already"):
        convert(file, target)
    assert target.read_bytes() == b"precious"
    convert(file, target, overwrite=True)
    assert read_state_dict(target)


@pytest.mark.parametrize("overwrite", [True, False])
def test_failed_conversion_leaves_everything(tmp_path, file, overwrite, monkeypatch):
    target = tmp_path / "out.safetensors"
    if overwrite:
        target.write_bytes(b"precious")

    def fail(tensors: object, path: Path, metadata: object) -> None:
        Path(path).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    module = __import__("sys").modules[convert_function.__module__]
    monkeypatch.setattr(module, "save_file", fail)
    with pytest.raises(OSError, match="No space"):
        convert(file, target, overwrite=overwrite)
    assert sorted(os.listdir(tmp_path)) == (["out.safetensors"] if overwrite else []) + [
        "small.pth"
    ]
    assert not overwrite or target.read_bytes() == b"precious"


def test_convert_refuses_bad_input(tmp_path, file):
    (tmp_path / "page.pth").write_bytes(b"<html></html>")
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "other.pth")
    huge = dict(read_state_dict(file))
    huge["norm1.bias"] = torch.full_like(huge["norm1.bias"], 1e30)
    torch.save(huge, tmp_path / "huge.pth")
    target = tmp_path / "out.safetensors"
    for source, options, message in (
        ("page.pth", {}, r"page\.pth: a web page"),
        ("other.pth", {}, r"other\.pth: .*not those of a TransNeXt"),
        ("missing.pth", {}, r"missing\.pth: cannot be read"),
        ("huge.pth", {"dtype": torch.float16}, r"huge\.pth: .*'norm1\.bias'.*too large"),
    ):
        with pytest.raises(CheckpointError, match=message):
            convert(tmp_path / source, target, **options)
        assert not target.exists()
    with pytest.raises(CheckpointError, match="a folder"):
        convert(file, tmp_path)
    with pytest.raises(CheckpointError, match="no folder"):
        convert(file, tmp_path / "nowhere" / "out.safetensors")
