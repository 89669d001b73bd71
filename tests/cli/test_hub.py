"""Weights by name: a file, the package's, from the cache, or from a server like the Hub."""

from __future__ import annotations

import os
import time
from pathlib import Path

import huggingface_hub
import pytest
import torch
from huggingface_hub import constants

from stand_in_hub import COMMIT, StandInHub, stand_in_hub, use_endpoint
from transnext_models import VARIANTS, create_model
from transnext_models import download as download_module
from transnext_models.checkpoints import WeightsWarning
from transnext_models.hub import (
    DownloadError,
    HubFile,
    cache_folder,
    cached,
    fetch,
    resolve_weights,
    sha256,
)

REPO, FILE = "DaiShiResearch/transnext-tiny-224-1k", "transnext_tiny_224_1k.pth"
CONTENT = os.urandom(300_000)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture
def hub(cache, monkeypatch):
    with stand_in_hub() as server:
        server.files[f"{REPO}/{FILE}"] = CONTENT
        use_endpoint(monkeypatch, server.url)
        yield server


@pytest.fixture
def offline(cache, monkeypatch):
    """An address at which nothing listens."""
    use_endpoint(monkeypatch, "http://127.0.0.1:9")


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


def refused(name: str, *parts: str) -> str:
    started = time.perf_counter()
    with pytest.raises(DownloadError) as error:
        resolve_weights(name)
    assert time.perf_counter() - started < 10, "a failure must not keep anyone waiting"
    message = str(error.value)
    for part in (*parts, str(cache_folder()), "--weights FILE", 'weights="FILE"'):
        assert part in message
    return message


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


# -- names that lead out of the cache -------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "owner/..:x.pth",
        "../..:x.pth",
        "./..:x.pth",
        "owner/.:x.pth",
        "owner/repo:../x.pth",
        "owner/repo:../../../../etc/passwd",
        "owner/repo:a/../../x.pth",
        "owner/repo:/etc/passwd",
        "owner/repo:a//x.pth",
        "owner/repo:a/./x.pth",
        "owner/repo@..:x.pth",
        "owner/repo@../../x:x.pth",
        "owner/repo@/x:x.pth",
        "owner/repo:..\\x.pth",
        "owner/repo:C:\\x.pth",
        "owner\\..\\repo",
        "owner/repo:a\0.pth",
        "owner/repo:a\n.pth",
        "owner/repo:" + "a" * 500 + ".pth",
        "owner/rep\u00f6:x.pth",
    ],
)
def test_names_that_lead_elsewhere_are_refused_before_anything(hub, cache, tmp_path, name):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=r"weights: |unknown model"):
        resolve_weights(name)
    assert hub.requests == []
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("owner/..", "x.pth"),
        ("owner", "x.pth"),
        ("a/b/c", "x.pth"),
        ("/a/b", "x.pth"),
        ("", "x.pth"),
        ("owner/repo", ""),
        ("owner/repo", ".."),
        ("owner/repo", "a/.."),
        ("owner/repo", "/etc/passwd"),
        ("owner/repo", "a\\b"),
        ("owner/repo", "a:b"),
        ("owner/repo", "a\0b"),
        ("owner/repo", "x.pth", ".."),
        ("owner/repo", "x.pth", "a/../b"),
        ("owner/repo", "x.pth", ""),
    ],
)
def test_no_hub_file_leads_elsewhere(arguments):
    with pytest.raises(ValueError, match="weights: "):
        HubFile(*arguments)


def test_a_revision_given_apart_is_looked_at_too(hub):
    with pytest.raises(ValueError, match=r"'\.\./x' is not the name of a revision"):
        resolve_weights("transnext_tiny", revision="../x")
    assert hub.requests == []


def test_usual_names_are_accepted():
    HubFile("owner/repo.name-2_x", "folder/sub.folder/a file+1.pth", "refs/pr/3")
    HubFile("a/b", "x..y.pth", "v1.0")


# -- a cached file that is damaged ----------------------------------------------------------------


def flip(path: Path) -> None:
    """Change a bit, as a disk does: size and time stay what they were."""
    at = path.stat()
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.resolve().write_bytes(data)
    os.utime(path.resolve(), ns=(at.st_atime_ns, at.st_mtime_ns))


def test_a_flipped_bit_in_the_cache_is_noticed_and_mended(hub):
    path = resolve_weights("transnext_tiny")
    flip(path)
    with pytest.warns(WeightsWarning, match="the cached file was damaged.*downloaded again"):
        assert resolve_weights("transnext_tiny").read_bytes() == CONTENT
    assert resolve_weights("transnext_tiny") == path
    assert hub.downloads == 2


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_a_damaged_file_without_a_network_is_named(hub, monkeypatch, damage):
    path = resolve_weights("transnext_tiny")
    if damage == "flip":
        flip(path)
    else:
        os.truncate(path.resolve(), 0 if damage == "empty" else 1000)
    use_endpoint(monkeypatch, "http://127.0.0.1:9")
    for _ in range(2):
        with pytest.raises(DownloadError) as error:
            resolve_weights("transnext_tiny")
        message = str(error.value)
        assert message.startswith(f"the cached file {path} is damaged: ")
        for part in ("SHA-256", "no connection to the Hub", "Delete it", "--weights FILE"):
            assert part in message
    assert path.exists()  # it is not ours to delete what cannot be had again


def test_files_of_other_repositories_are_held_to_what_arrived(hub):
    """The cache names what it keeps by the SHA-256 that the Hub gave."""
    hub.files["someone/my-model/model.safetensors"] = CONTENT
    flip(resolve_weights("someone/my-model"))
    with pytest.warns(WeightsWarning, match="damaged"):
        assert resolve_weights("someone/my-model").read_bytes() == CONTENT


def published(monkeypatch, content: bytes) -> HubFile:
    """Have `content` be what was published as Tiny."""
    import dataclasses
    import hashlib

    variant = VARIANTS["transnext_tiny"]
    checkpoint = dataclasses.replace(
        variant.default, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )
    monkeypatch.setitem(
        VARIANTS, "transnext_tiny", dataclasses.replace(variant, checkpoints=(checkpoint,))
    )
    return HubFile(REPO, FILE)


def test_published_files_are_held_to_their_digest(hub, monkeypatch):
    """Whatever the Hub says, and where the cache has copies instead of links."""
    file = published(monkeypatch, CONTENT)
    path = fetch(file)
    assert path.read_bytes() == CONTENT
    blob = path.resolve()
    path.unlink()
    path.write_bytes(blob.read_bytes())
    assert fetch(file) == path
    flip(path)
    with pytest.warns(WeightsWarning, match="its SHA-256 is [0-9a-f]{64}, that of the file"):
        assert fetch(file).read_bytes() == CONTENT


def test_a_hub_that_has_another_file_is_not_believed(hub, monkeypatch):
    file = published(monkeypatch, CONTENT)
    hub.files[f"{REPO}/{FILE}"] = CONTENT[:-1] + b"?"
    for _ in range(2):
        with pytest.raises(DownloadError, match="what arrived is damaged"):
            fetch(file)
    assert cached(file) is None
    # Who asks for another revision gets what that is.
    hub.revisions = ("main", "v2")
    assert fetch(HubFile(REPO, FILE, "v2")).read_bytes() == CONTENT[:-1] + b"?"


def test_the_digests_are_those_of_the_specification():
    """Of the three files for which they are known."""
    known = {
        c.file: (c.sha256, c.bytes) for v in VARIANTS.values() for c in v.checkpoints if c.sha256
    }
    assert {name: (digest[:8], size) for name, (digest, size) in known.items()} == {
        "transnext_micro_224_1k.pth": ("18dbc88e", 51_425_223),
        "transnext_base_224_1k.pth": ("1d3b9e5c", 359_219_401),
        "transnext_micro_AAAA_256_1k.pth": ("a58c674f", 52_655_448),
    }
    assert all(len(digest) == 64 for digest, _ in known.values())


def test_sha256_of_a_file(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 1_000_000)
    import hashlib

    assert sha256(tmp_path / "x") == hashlib.sha256(b"abc" * 1_000_000).hexdigest()


# -- a server that stalls -------------------------------------------------------------------------


@pytest.mark.parametrize("stall", ["HEAD", "GET", "middle", "drip"])
def test_a_server_that_stalls_is_given_up(hub, monkeypatch, stall):
    monkeypatch.setattr(download_module, "STALLED_AFTER", 1.0)
    hub.stall = stall
    refused("transnext_tiny", "it stalled, nothing arrived for 1 second")
    assert cached(HubFile(REPO, FILE)) is None


def test_a_slow_server_is_waited_for(hub, monkeypatch):
    """As long as something arrives."""
    monkeypatch.setattr(download_module, "STALLED_AFTER", 1.0)
    monkeypatch.setattr(download_module, "_CHUNK", 50_000)
    hub.pace = 0.3
    started = time.perf_counter()
    assert resolve_weights("transnext_tiny").read_bytes() == CONTENT
    assert time.perf_counter() - started > 1.0


def test_settings_of_the_library_are_put_back(hub):
    before = (constants.HF_HUB_DISABLE_XET, constants.DOWNLOAD_CHUNK_SIZE)
    resolve_weights("transnext_tiny")
    with pytest.raises(DownloadError):
        resolve_weights("nobody/nothing")
    assert before == (constants.HF_HUB_DISABLE_XET, constants.DOWNLOAD_CHUNK_SIZE)
