"""What an export is asked for: it is understood, or refused by name before any work."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transnext_models.exporting import DYNAMIC, FORMATS, Request, export_model, parse_size


@given(st.integers(32, 4096), st.integers(32, 4096))
def test_sizes_are_read(height: int, width: int) -> None:
    assert parse_size(f"{height}x{width}") == (height, width)
    assert parse_size(str(height)) == (height, height)


@pytest.mark.parametrize("text", ["", "x", "31", "64x", "64x31", "64x64x3", "-64", "²²4", "free"])
def test_no_other_text_is_a_size(text: str) -> None:
    with pytest.raises(ValueError, match=r"^size: got "):
        parse_size(text)


@pytest.mark.parametrize(("name", "suffix"), FORMATS.items())
def test_the_suffix_says_the_format(tmp_path: Path, name: str, suffix: str) -> None:
    assert Request(tmp_path / f"model{suffix}").format == name
    assert Request(tmp_path / f"model{suffix}", format="onnx").format == "onnx"


@pytest.mark.parametrize(
    ("argument", "file", "options"),
    [
        ("output", "model.bin", {}),
        ("output", ".", {}),
        ("output", "nowhere/model.onnx", {}),
        ("output", "there.onnx", {}),
        ("format", "model.onnx", {"format": "tflite"}),
        ("dtype", "model.onnx", {"dtype": "float64"}),
        ("dtype", "model.onnx", {"dtype": "bfloat16"}),
        ("dtype", "model.onnx", {"dtype": "float16", "quantize": "int8"}),
        ("quantize", "model.onnx", {"quantize": "int4"}),
        ("quantize", "model.pt2", {"quantize": "int8"}),
        ("calibration", "model.onnx", {"calibration": Path()}),
        ("size", "model.pt", {"size": DYNAMIC}),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(
    tmp_path: Path, argument: str, file: str, options: dict[str, Any]
) -> None:
    (tmp_path / "there.onnx").touch()
    with pytest.raises(ValueError, match=rf"^{argument}: "):
        Request(tmp_path / file, **options)


@pytest.mark.parametrize("model", ["maskrcnn_transnext_tiny", "mask2former_transnext_tiny"])
def test_a_model_without_an_export_is_refused_before_its_weights_are_asked_for(
    tmp_path: Path, model: str
) -> None:
    with pytest.raises(ValueError, match=r"^model: got .* has no export: needs a classifier"):
        export_model(model, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
