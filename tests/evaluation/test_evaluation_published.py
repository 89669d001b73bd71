"""Published numbers stand beside measured ones, and the figure shows both."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from evaluation.made_up_sets import paint_classes, painted_model
from transnext_models.evaluation.figure import draw_sizes, measured_curves
from transnext_models.evaluation.models import MODES
from transnext_models.evaluation.options import EvaluationOptions
from transnext_models.evaluation.published import (
    FIGURE_SIZES,
    PEER_CURVES,
    TINY_CURVES,
    published_result,
)
from transnext_models.evaluation.results import Results
from transnext_models.evaluation.rows import COLUMNS
from transnext_models.evaluation.run import evaluate


@pytest.mark.parametrize(
    ("model", "image_set", "size", "mode", "number"),
    [
        ("transnext_tiny.in1k", "imagenet", 224, "normal", 84.0),
        ("transnext_tiny.in1k", "imagenet", 640, "normal", 81.6),
        ("transnext_tiny.in1k", "imagenet", 512, "linear", 82.6),
        ("transnext_tiny.in1k", "imagenet", 640, "interpolate", 79.5),
        ("transnext_tiny.in1k", "imagenet", 384, "no-length-scaling", 84.7),
        ("transnext_tiny.in1k", "imagenet", 300, "normal", None),
        ("transnext_base.in1k_384", "imagenet-a", 384, "normal", 61.6),
        ("transnext_base.in1k_384", "imagenet-a", 224, "normal", None),
        ("transnext_base.in1k_384", "imagenet-c", 384, "normal", None),
        ("transnext_small.in1k", "imagenet-c", 224, "normal", 43.9),
        ("transnext_small.in1k", "imagenet-a-clean", 224, "normal", None),
        ("transnext_micro.in1k", "sketch", 224, "normal", 33.0),
        ("transnext_micro.in1k", "imagenetv2-matched-frequency", 224, "normal", 72.6),
        ("transnext_micro.in1k", "imagenetv2-top-images", 224, "normal", None),
        ("transnext_micro_AAAA.in1k", "imagenet", 256, "normal", 82.6),
        ("timm/convnext_base.fb_in1k", "imagenet", 480, "normal", 81.5),
        ("timm/resnet50.a1_in1k", "imagenet", 224, "normal", None),
    ],
)
def test_published_numbers(
    model: str, image_set: str, size: int, mode: str, number: float | None
) -> None:
    assert published_result(model, image_set, size, mode) == number


def test_curves_are_those_of_the_figure() -> None:
    assert list(TINY_CURVES) == list(MODES)
    assert all(len(curve) == len(FIGURE_SIZES) for curve in TINY_CURVES.values())
    assert {name: len(curve) for name, curve in PEER_CURVES.items()} == {
        "ConvNeXt-B": 7, "SLaK-S": 7, "RepLKNet-31B": 4,
    }  # fmt: skip


def test_the_difference_is_measured_minus_published(tmp_path: Path) -> None:
    paint_classes(tmp_path / "val", range(10), right=8)
    options = EvaluationOptions(
        output=tmp_path / "results.csv",
        imagenet=tmp_path / "val",
        sizes=(224, 256),
        allow_incomplete=True,
        device="cpu",
        workers=0,
    )
    rows = evaluate(options, model=painted_model(name="transnext_tiny.in1k")).rows
    assert [(row["published"], row["difference"]) for row in rows] == [(84.0, -4.0), (84.3, -4.3)]
    header, first, _ = (tmp_path / "results.csv").read_text().splitlines()
    assert header.startswith(
        "model,img_size,top1,top1_err,top5,top5_err,param_count,crop_pct,interpolation,set,images"
    )
    assert first.startswith("transnext_tiny.in1k,224,80.0,20.0,")
    assert "| 80.00 |" in (tmp_path / "results.md").read_text()
    assert "| 84.0 | -4.00 |" in (tmp_path / "results.md").read_text()


def made_up_row(**values: Any) -> dict[str, Any]:
    return {
        **dict.fromkeys(COLUMNS, ""),
        "set": "imagenet",
        "weights_sha256": "0" * 64,
        "mode": "normal",
        "top5": 95.0,
        "published": None,
        "difference": None,
        "mce": None,
        "details": {},
        **values,
    }


def test_two_evaluations_add_to_one_table(tmp_path: Path) -> None:
    output = tmp_path / "results.csv"
    one, other = Results(output), Results(output)
    one.add(made_up_row(model="a", img_size=224, top1=80.0))
    other.add(made_up_row(model="b", img_size=224, top1=70.0))
    one.add(made_up_row(model="a", img_size=256, top1=81.0))
    assert [(row["model"], row["img_size"]) for row in Results(output).rows] == [
        ("a", 224), ("b", 224), ("a", 256),
    ]  # fmt: skip
    assert len(output.read_text().splitlines()) == 4


def test_curves_from_rows() -> None:
    rows = [
        made_up_row(model="a", img_size=256, top1=80.0),
        made_up_row(model="a", img_size=224, top1=81.0),
        made_up_row(model="a", img_size=224, top1=70.0, mode="linear"),
        made_up_row(model="b", img_size=224, top1=60.0),
        made_up_row(model="b", img_size=224, top1=50.0, weights_sha256="1" * 64),
        made_up_row(model="b", img_size=224, top1=10.0, set="sketch"),
    ]
    assert measured_curves(rows, "imagenet") == {
        ("a", "normal"): ([224, 256], [81.0, 80.0]),
        ("a", "linear"): ([224], [70.0]),
        ("b 00000000", "normal"): ([224], [60.0]),
        ("b 11111111", "normal"): ([224], [50.0]),
    }


def test_the_figure_of_imagenet_has_published_curves_and_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from matplotlib.axes import Axes

    drawn: list[str] = []
    plot = Axes.plot

    def noted(self: Axes, *arguments: Any, **options: Any) -> Any:
        drawn.append(options["label"])
        return plot(self, *arguments, **options)

    monkeypatch.setattr(Axes, "plot", noted)
    output = tmp_path / "results.csv"
    results = Results(output)
    for model in ("transnext_tiny.in1k", "timm/convnext_base.fb_in1k"):
        for size in (224, 256):
            results.add(made_up_row(model=model, img_size=size, top1=84.0))
    file = draw_sizes(output)
    assert file == tmp_path / "results-sizes.png"
    assert file.read_bytes().startswith(b"\x89PNG")
    assert drawn == [
        *("transnext_tiny.in1k, normal", "timm/convnext_base.fb_in1k, normal"),
        *(f"TransNeXt-Tiny, {mode}" for mode in MODES),
        *PEER_CURVES,
    ]


def test_without_sizes_there_is_nothing_to_draw(tmp_path: Path) -> None:
    output = tmp_path / "results.csv"
    Results(output).add(made_up_row(model="a", img_size=224, top1=80.0))
    with pytest.raises(ValueError, match="no rows of one model at several sizes"):
        draw_sizes(output)


def test_the_commands_of_the_readme_name_options_that_exist() -> None:
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\| .* \| `transnext evaluate MODEL --(\w+) DIR`", text, re.MULTILINE))
    assert named == {"imagenet", "a", "c", "r", "sketch", "v2"}
    assert named <= set(EvaluationOptions.__dataclass_fields__)
