"""``transnext see``: the page in one file, figures, and what is refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from PIL import Image

from transnext_models.cli.console import INTERRUPTED


@pytest.fixture
def photo(tmp_path):
    path = tmp_path / "photo.png"
    Image.effect_noise((90, 70), 60).convert("RGB").save(path)
    return path


def test_a_page_in_one_file(transnext, tmp_path, photo):
    page = tmp_path / "page.html"
    code, out, err = transnext("see", str(photo), "--html", str(page))
    assert (code, out) == (0, f"{page}\n")
    assert "no server" in err
    assert 'id="payload"' in page.read_text(encoding="utf-8")
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".part"] == []


def test_modes_and_a_second_model(transnext, tmp_path, photo):
    page = tmp_path / "page.html"
    options = ("--size", "96", "--mode", "linear", "--compare", "transnext_pico")
    code, _, _ = transnext("see", str(photo), "--html", str(page), *options)
    text = page.read_text(encoding="utf-8")
    assert code == 0
    assert "96 pixels, linear" in text
    assert "64 pixels, linear" in text


def test_a_second_size(transnext, tmp_path, photo):
    page = tmp_path / "page.html"
    code, _, _ = transnext("see", str(photo), "--html", str(page), "--compare-size", "96")
    text = page.read_text(encoding="utf-8")
    assert code == 0
    assert "transnext_pico.mnist5k, 64 pixels" in text
    assert "transnext_pico.mnist5k, 96 pixels" in text


@pytest.mark.parametrize(
    "options", [("--foveal",), ("--query", "30,40"), ("--foveal", "--query", "30,40")]
)
def test_figures_of_an_image(transnext, tmp_path, photo, options):
    target = tmp_path / "figure.png"
    arguments = ("see", str(photo), *options, "--stage", "2", "--output", str(target))
    code, out, err = transnext(*arguments)
    assert (code, err) == (0, "")
    assert out.split() == [str(target.with_suffix(f".{kind}")) for kind in ("png", "json", "csv")]
    numbers = json.loads(target.with_suffix(".json").read_text())
    assert numbers["stage"] == 2
    assert min(Image.open(target).size) > 100
    if "--query" in options:
        assert numbers["position"] == [4, 5]
    with target.with_suffix(".csv").open(newline="") as file:
        cells = list(csv.DictReader(file))
    for name in {cell["map"] for cell in cells}:
        values = [float(cell["value"]) for cell in cells if cell["map"] == name]
        assert values == list(np.ravel(numbers[name]))


def test_a_figure_as_vectors(transnext, tmp_path, photo):
    target = tmp_path / "figure.svg"
    arguments = ("see", str(photo), "--query", "30,40", "--stage", "2", "--output", str(target))
    assert transnext(*arguments).code == 0
    text = target.read_text("utf-8")
    assert text.startswith("<?xml")
    assert "What the query sees</text>" in text
    assert transnext(*arguments).code == 0
    assert target.read_text("utf-8") == text, "the same figure is the same file"


def test_receptive_fields_of_a_folder(transnext, tmp_path, photo):
    target = tmp_path / "erf.png"
    code, _, err = transnext("see", "--erf", str(tmp_path), "--stage", "3", "--output", str(target))
    numbers = json.loads(target.with_suffix(".json").read_text())
    assert code == 0
    assert numbers["images"] == [str(photo)]
    with target.with_suffix(".csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    (field,) = numbers["fields"]
    assert float(row["sum"]) == field["sum"]
    assert f"stage 3: E sums to {field['sum']:.3g}, its maximum is {field['max']:.3g}\n" in err
    assert float(row["area_50_published"]) == field["area_ratios"][2]["published"]
    assert [field["images"] for field in numbers["fields"]] == [1]


def test_the_page_is_served_until_ctrl_c(transnext, monkeypatch, photo):
    from transnext_models.seeing.viewer import ViewerServer

    closed = []

    def stop(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(ViewerServer, "serve_forever", stop)
    monkeypatch.setattr(ViewerServer, "close", lambda self: closed.append(self.port))
    code, out, _ = transnext("see", str(photo), "--no-browser")
    assert code == INTERRUPTED
    assert out.startswith("http://127.0.0.1:")
    assert len(closed) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mode", "other"), "--mode"),
        (("--query", "12"), "needs two numbers"),
        (("--html", "x.html", "--foveal"), "--html"),
        (("--compare", "a", "--compare", "b"), "room for one"),
        (("--foveal", "--output", "x.gif"), "--output"),
        (("--foveal", "--compare-size", "96"), "--compare-size"),
    ],
)
def test_wrong_calls(transnext, arguments, said):
    code, _, err = transnext("see", *arguments)
    assert code == 2
    assert said in err


def test_an_image_that_cannot_be_read(transnext, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(b"no image")
    code, out, err = transnext("see", str(path), "--no-browser")
    assert (code, out) == (1, "")
    assert "broken.png" in err
