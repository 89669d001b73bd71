"""Weights by name: a file, the package's, from the cache, or from a server like the Hub."""

from __future__ import annotations

import os
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from cli.hub_content import CONTENT
from stand_in_hub import COMMIT, FILE, REPO, StandInHub, refused, use_endpoint
from transnext_models import VARIANTS, create_model
from transnext_models.checkpoints.hub import DownloadError, HubFile, cached, resolve_weights

# -- downloads ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "transnext_tiny",
        "transnext_tiny.in1k",
        REPO,
        f"{REPO}:{FILE}",
        f"{REPO}@main:{FILE}",
        f"{REPO}@{COMMIT}:{FILE}",
    ],
)
def test_names_of_the_same_file(hub, cache, name):
    path = resolve_weights(name)
    assert path.read_bytes() == CONTENT
    assert path.name == FILE
    assert path.is_relative_to(cache)


def test_second_time_is_from_the_cache_without_asking(hub):
    first = resolve_weights("transnext_tiny")
    asked = len(hub.requests)
    assert hub.downloads == 1
    assert resolve_weights("transnext_tiny") == first
    assert len(hub.requests) == asked


def test_cache_is_used_offline(hub, monkeypatch):
    first = resolve_weights("transnext_tiny")
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    assert resolve_weights("transnext_tiny") == first
    assert cached(HubFile(REPO, FILE)) == first
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert resolve_weights("transnext_tiny") == first


def test_revision(hub):
    hub.revisions = ("main", "v2")
    assert resolve_weights(f"{REPO}@v2:{FILE}").read_bytes() == CONTENT
    assert resolve_weights("transnext_tiny", revision="v2").read_bytes() == CONTENT
    assert all("/resolve/v2/" in path or COMMIT in path for _, path in hub.requests)


def test_other_repositories_hold_model_safetensors(hub):
    hub.files["someone/my-model/model.safetensors"] = b"abc"
    assert resolve_weights("someone/my-model").read_bytes() == b"abc"


def test_dense_task_files_are_reached_by_their_name(hub):
    name = "DaiShiResearch/upernet-transnext-tiny-ade:upernet.pth"
    hub.files[name.replace(":", "/")] = b"abc"
    assert resolve_weights(name).read_bytes() == b"abc"


def test_model_by_name_downloads_its_weights(hub, monkeypatch):
    """The whole way, with the small model standing in for a published one."""
    model = create_model("transnext_pico")
    path = Path(constants.HF_HUB_CACHE).with_name("made.pth")
    torch.save({"model": model.state_dict()}, path)
    hub.files["owner/pico/pico.pth"] = path.read_bytes()
    loaded = create_model("transnext_pico", weights="owner/pico:pico.pth")
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value)


# -- downloads that fail --------------------------------------------------------------------------


def test_without_a_network(offline):
    message = refused("transnext_tiny", f"{FILE} of {REPO}", "no connection to the Hub")
    assert f"http://127.0.0.1:9/{REPO}/resolve/main/{FILE}" in message


def test_offline_mode(cache, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    # Some versions of the client look at this only when it opens a connection.
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    refused("transnext_tiny", FILE)


def test_no_such_file(hub):
    refused(f"{REPO}:other.pth", "no such file at revision 'main'")
    refused(f"{REPO}@v9:{FILE}", "no such file at revision 'v9'")


def test_no_such_repository(hub):
    refused("nobody/nothing", "no such repository", "HF_TOKEN")


@pytest.mark.parametrize("status", [403, 500, 503])
def test_server_trouble(hub, status, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    hub.status = status
    refused("transnext_tiny", "token" if status == 403 else str(status))


def test_connection_that_breaks(hub, monkeypatch):
    """What arrived is kept by the client, but is no result; the next try goes on from it."""
    monkeypatch.setattr(huggingface_hub.file_download.time, "sleep", lambda seconds: None)
    hub.stop_after = 100_000
    refused("transnext_tiny", FILE)
    assert cached(HubFile(REPO, FILE)) is None
    hub.stop_after = None
    assert resolve_weights("transnext_tiny").read_bytes() == CONTENT


def test_damaged_download_is_thrown_away(hub):
    hub.corrupt = True
    refused("transnext_tiny", "damaged", "SHA-256")
    assert cached(HubFile(REPO, FILE)) is None
    hub.corrupt = False
    assert resolve_weights("transnext_tiny").read_bytes() == CONTENT


def test_cache_that_cannot_be_written(hub, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(DownloadError, match=r"cannot download transnext_tiny_224_1k\.pth"):
        resolve_weights("transnext_tiny")


def test_mistakes_of_ours_are_not_called_network_trouble(hub, monkeypatch):
    def broken(url: str) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", broken)
    with pytest.raises(KeyError):
        resolve_weights("transnext_tiny")


def test_no_progress_bar_where_nobody_looks(hub, capfd):
    resolve_weights("transnext_tiny")
    assert capfd.readouterr() == ("", "")


# -- names that need no download ------------------------------------------------------------------


def test_local_files(tmp_path, offline, monkeypatch):
    path = tmp_path / "x.pth"
    path.write_bytes(b"abc")
    assert resolve_weights(path) == path
    assert resolve_weights(str(path)) == path
    monkeypatch.chdir(tmp_path)
    assert resolve_weights("x.pth") == Path("x.pth")
    (tmp_path / "owner").mkdir()
    (tmp_path / "owner" / "repo").write_bytes(b"abc")
    assert resolve_weights("owner/repo") == Path("owner/repo")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve_weights("~/x.pth") == path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing.pth", r"no file 'missing\.pth'.*owner/repo:file"),
        ("runs/best.safetensors", r"no file 'runs/best\.safetensors'"),
        ("/nowhere/x.pth", "/nowhere/x.pth is not there"),
        ("./x", "x is not there"),
        ("transnext_tiney", "did you mean transnext_tiny"),
        ("transnext_tiny.in21k", "no checkpoint 'in21k'"),
        ("a/b/c", "no file 'a/b/c'"),
        ("resnet50", "unknown model"),
    ],
)
def test_names_that_mean_nothing(offline, name, message):
    with pytest.raises(ValueError, match=message):
        resolve_weights(name)


def test_a_folder_does_not_hide_a_published_name(hub, tmp_path, monkeypatch):
    """Such as the one a training run of that model made."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "transnext_tiny").mkdir()
    assert resolve_weights("transnext_tiny").read_bytes() == CONTENT
    (tmp_path / "owner" / "repo").mkdir(parents=True)
    with pytest.raises(ValueError, match="owner/repo is a folder"):
        resolve_weights("owner/repo")


def test_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        resolve_weights(tmp_path)
    with pytest.raises(ValueError, match="is not there"):
        resolve_weights(tmp_path / "missing.pth")


@pytest.mark.parametrize("source", ["fifo", "device"])
def test_what_is_no_ordinary_file_is_left_to_its_reader(tmp_path, offline, monkeypatch, source):
    """It says of which kind it is; a pipe must not be taken for a model's name."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("fifo")
    path = {"fifo": "fifo", "device": "/dev/null"}[source]
    assert resolve_weights(path) == Path(path)


def test_every_published_file_is_asked_for_where_it_is(hub):
    """Its content here is another, which is noticed where the published SHA-256 is known."""
    hub.files.clear()
    known = 0
    for variant in VARIANTS.values():
        for checkpoint in variant.checkpoints:
            if checkpoint.repo is None:
                continue
            hub.files[f"{checkpoint.repo}/{checkpoint.file}"] = checkpoint.tag.encode()
            name = f"{variant.name}.{checkpoint.tag}"
            if checkpoint.sha256 is None:
                assert resolve_weights(name).read_bytes() == checkpoint.tag.encode()
            else:
                known += 1
                with pytest.raises(DownloadError, match=r"damaged.*the published file"):
                    resolve_weights(name)
                assert cached(HubFile(checkpoint.repo, checkpoint.file)) is None
            assert hub.requests[-1] == ("GET", f"/{checkpoint.repo}/resolve/main/{checkpoint.file}")
    assert (len(hub.files), known) == (7, 3)
    assert isinstance(hub, StandInHub)
