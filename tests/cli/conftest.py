"""The commands' tests: small models, so one thread is fastest, also beside other tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file

from cli.hub_content import CONTENT
from stand_in_hub import FILE, REPO, StandInHub, stand_in_hub, use_endpoint
from transnext_models import create_model


class Outcome(NamedTuple):
    """What a command did: its exit code, and what it printed to standard output and error."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _one_thread(one_thread: None) -> None:
    """Compute on one thread."""


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder in which downloads are kept."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return folder


@pytest.fixture
def empty_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StandInHub]:
    """A server like the Hub, which has no files yet."""
    with stand_in_hub() as server:
        use_endpoint(monkeypatch, server.url)
        yield server


@pytest.fixture
def hub(empty_hub: StandInHub) -> StandInHub:
    """A server like the Hub, with the published weights of one model."""
    empty_hub.files[f"{REPO}/{FILE}"] = CONTENT
    return empty_hub


@pytest.fixture
def offline(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An address at which nothing listens."""
    use_endpoint(monkeypatch, "http://127.0.0.1:9")


@pytest.fixture
def transnext(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a command of the command line in this process."""
    from transnext_models.cli.application import app

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments], prog_name="transnext")
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    torch.manual_seed(1)
    network = create_model("transnext_pico").eval()
    torch.nn.init.normal_(network.head.weight, std=0.2)
    return network


@pytest.fixture(scope="module")
def weights(model, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "pico.safetensors"
    save_file(model.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Eleven images of several formats, two broken ones, and a text."""
    path = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for index in range(11):
        side = 40 + 3 * index
        values = generator.integers(0, 256, (side, 50, 3), dtype=np.uint8)
        Image.fromarray(values).save(
            path / f"image_{index:02d}.{('png', 'jpg', 'webp')[index % 3]}"
        )
    (path / "image_04_broken.png").write_bytes(b"no image")
    (path / "image_99_empty.jpg").write_bytes(b"")
    (path / "notes.txt").write_text("not an image, and not called one")
    return path
