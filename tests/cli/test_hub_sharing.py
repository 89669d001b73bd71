"""Models that go to a server like the Hub and come back: the same bits, for everybody's loader."""

from __future__ import annotations

import json
import time

import pytest
import torch
from torch import nn

from stand_in_hub import FILE, REPO, StandInHub, use_endpoint
from transnext_models import TransNeXt, create_model
from transnext_models.checkpoints.hub import DownloadError

NAMES = [f"digit {index}" for index in range(10)]


@pytest.fixture
def network() -> TransNeXt:
    torch.manual_seed(3)
    made = create_model("transnext_pico", fixed_pool_size=2, img_size=96).eval()
    nn.init.normal_(made.head.weight, std=0.2)
    return made


@pytest.fixture
def pushed(network: TransNeXt, empty_hub: StandInHub) -> StandInHub:
    network.push_to_hub("me/pico", class_names=NAMES, results={"top-1": 98.8})
    return empty_hub


def same(model: nn.Module, other: nn.Module) -> bool:
    """Whether both have the same weights, bit for bit."""
    state, others = model.state_dict(), other.state_dict()
    return list(state) == list(others) and all(torch.equal(state[n], others[n]) for n in state)


def test_what_is_pushed_comes_back(network, pushed):
    assert sorted(pushed.files) == [
        f"me/pico/{name}" for name in ("README.md", "config.json", "model.safetensors")
    ]
    assert b'from_pretrained("me/pico")' in pushed.files["me/pico/README.md"]
    for source in ("me/pico", "hf-hub:me/pico", "me/pico@main"):
        again = TransNeXt.from_pretrained(source)
        assert same(again, network)
        assert (again.fixed_pool_size, again.img_size) == (2, 96)
    assert same(create_model("hf-hub:me/pico", pretrained=True), network)
    assert pushed.downloads == 2, "a configuration and weights, once"


def test_the_address_of_the_commit(network, empty_hub):
    address = network.push_to_hub("me/pico", private=True, commit_message="first")
    assert address == f"{empty_hub.url}/me/pico/commit/{empty_hub.commit}"


def test_a_second_push_is_what_comes_back_then(network, pushed):
    TransNeXt.from_pretrained("me/pico")
    pushed.files["me/pico/README.md"] = b"edited by its owner"
    with torch.no_grad():
        network.head.bias.add_(1)
    network.push_to_hub("me/pico")
    assert same(TransNeXt.from_pretrained("me/pico"), network)
    assert pushed.files["me/pico/README.md"] == b"edited by its owner"
    assert json.loads(pushed.files["me/pico/config.json"]).get("label_names") is None


def test_without_a_network_the_last_one_is_used(network, pushed, monkeypatch):
    TransNeXt.from_pretrained("me/pico")
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert same(TransNeXt.from_pretrained("me/pico"), network)
    with pytest.raises(DownloadError, match="no connection to the Hub"):
        TransNeXt.from_pretrained("me/other")


def test_a_repository_that_is_gone_is_told(pushed):
    TransNeXt.from_pretrained("me/pico")
    pushed.files.clear()
    with pytest.raises(DownloadError, match="no such repository"):
        TransNeXt.from_pretrained("me/pico")


def test_a_branch(network, empty_hub):
    network.push_to_hub("me/pico", revision="v2")
    assert "v2" in empty_hub.revisions
    assert same(TransNeXt.from_pretrained("me/pico", revision="v2"), network)
    assert same(TransNeXt.from_pretrained("me/pico@v2"), network)


def test_a_token_is_needed(network, empty_hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    empty_hub.token = "hf_right"
    with pytest.raises(RuntimeError, match="me/pico was not uploaded: it needs a token"):
        network.push_to_hub("me/pico", token="hf_wrong")
    assert not empty_hub.files
    network.push_to_hub("me/pico", token="hf_right")
    assert same(TransNeXt.from_pretrained("me/pico"), network)


def test_uploads_that_fail(network, empty_hub, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    empty_hub.status = 500
    with pytest.raises(RuntimeError, match="me/pico was not uploaded: the Hub answered 500"):
        network.push_to_hub("me/pico")
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    with pytest.raises(RuntimeError, match="not uploaded: no connection to the Hub"):
        network.push_to_hub("me/pico")
    with pytest.raises(ValueError, match="a/b/c"):
        network.push_to_hub("a/b/c")


def test_published_repositories_need_no_configuration(hub):
    """They have none; the file's content is another test's, so it is refused as such."""
    with torch.device("meta"):
        model = create_model(f"hf-hub:{REPO}")
    assert (model.num_classes, model.img_size, len(model.block3)) == (1000, 224, 15)
    with pytest.raises(ValueError, match=FILE):
        TransNeXt.from_pretrained(REPO)
    assert [path for _, path in hub.requests if "config.json" in path] == []


def test_classify_with_a_shared_model(transnext, pushed, folder):
    code, out, err = transnext(
        "classify", folder / "image_00.png", "--model", "hf-hub:me/pico", "--json"
    )
    assert (code, err) == (0, "")
    document = json.loads(out)
    assert document["size"] == 96
    assert document["images"][0]["predictions"][0]["label"] in NAMES


def test_timm_downloads_it(network, pushed):
    timm = pytest.importorskip("timm")
    theirs = timm.create_model("hf-hub:me/pico", pretrained=True).eval()
    assert type(theirs) is TransNeXt
    assert same(theirs, network)
    assert theirs.fixed_pool_size == 2


@pytest.mark.slow
def test_transformers(network, pushed, folder, tmp_path):
    """Classifier, features, preprocessing and backbone of transformers, which reads timm's format.

    One test, as importing that library takes most of it.
    """
    pytest.importorskip("timm")
    transformers = pytest.importorskip("transformers", minversion="4.50")
    from PIL import Image

    from transnext_models.classification.classifier import Classifier

    network.save_pretrained(tmp_path, class_names=NAMES)
    for source in (str(tmp_path), "me/pico"):
        theirs = transformers.AutoModelForImageClassification.from_pretrained(source).eval()
        assert same(theirs.timm_model, network)
        assert list(theirs.config.id2label.values()) == NAMES
        prepare = transformers.AutoImageProcessor.from_pretrained(source)
        image = Image.open(folder / "image_02.webp").convert("RGB")
        values = prepare(image, return_tensors="pt")["pixel_values"]
        ours = Classifier.load(f"local-dir:{tmp_path}", device="cpu").preprocess(image)
        assert torch.equal(values[0], ours)
        with torch.inference_mode():
            # Loaded weights lie elsewhere in memory, by which a BLAS may choose its order of sums.
            torch.testing.assert_close(theirs(values).logits, network(values))
    features = transformers.AutoModel.from_pretrained(str(tmp_path)).eval()
    with torch.inference_mode():
        output = features(values, output_hidden_states=True)
        last, maps = network.forward_intermediates(values)
    assert torch.equal(output.last_hidden_state, last)
    assert all(map(torch.equal, output.hidden_states, maps))

    packaged = create_model("transnext_pico", pretrained=True, features_only=True).eval()
    for out_indices in ([-1], [0, 2]):
        backbone = transformers.AutoBackbone.from_pretrained(
            "transnext_pico", use_timm_backbone=True, out_indices=out_indices
        ).eval()
        with torch.inference_mode():
            got, wanted = backbone(values).feature_maps, packaged(values)
        assert backbone.channels == [(24, 48, 96, 144)[index] for index in out_indices]
        for one, index in zip(got, out_indices, strict=True):
            assert torch.equal(one, wanted[index])
    config = transformers.TimmBackboneConfig(backbone="transnext_pico", out_indices=[1])
    assert transformers.TimmBackbone(config).channels == [48]
