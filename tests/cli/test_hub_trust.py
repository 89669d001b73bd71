"""What names cannot do, and what is noticed: damaged files in the cache, a server that stalls."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from cli.hub_content import CONTENT
from stand_in_hub import FILE, REPO, refused, use_endpoint
from transnext_models import VARIANTS
from transnext_models.checkpoints import WeightsWarning
from transnext_models.checkpoints import download as download_module
from transnext_models.checkpoints.hub import (
    DownloadError,
    HubFile,
    cached,
    fetch,
    resolve_weights,
    sha256,
)

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
    with pytest.raises(ValueError, match=r"'\.\./x', needs the name of a revision"):
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


def test_files_of_other_repositories_are_checked_against_what_arrived(hub):
    """The cache names what it keeps by the SHA-256 that the Hub gave."""
    hub.files["someone/my-model/model.safetensors"] = CONTENT
    flip(resolve_weights("someone/my-model"))
    with pytest.warns(WeightsWarning, match="damaged"):
        assert resolve_weights("someone/my-model").read_bytes() == CONTENT


def published(monkeypatch, content: bytes) -> HubFile:
    """Have `content` be what was published as Tiny."""
    variant = VARIANTS["transnext_tiny"]
    checkpoint = dataclasses.replace(
        variant.default, sha256=hashlib.sha256(content).hexdigest(), bytes=len(content)
    )
    monkeypatch.setitem(
        VARIANTS, "transnext_tiny", dataclasses.replace(variant, checkpoints=(checkpoint,))
    )
    return HubFile(REPO, FILE)


def test_published_files_are_checked_against_their_digest(hub, monkeypatch):
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


def test_files_come_by_plain_http(hub):
    """The other protocol's client waits for minutes, and says nothing of what arrives."""
    hub.offers_xet = True
    assert resolve_weights("transnext_tiny").read_bytes() == CONTENT
    assert ("GET", f"/{REPO}/resolve/main/{FILE}") in hub.requests
    assert not any("xet" in path for _, path in hub.requests)


def test_settings_of_the_library_are_put_back(hub):
    names = ("HF_HUB_DISABLE_XET", "DOWNLOAD_CHUNK_SIZE")  # older versions lack the first
    before = [getattr(constants, name, None) for name in names]
    resolve_weights("transnext_tiny")
    with pytest.raises(DownloadError):
        resolve_weights("nobody/nothing")
    assert before == [getattr(constants, name, None) for name in names]
