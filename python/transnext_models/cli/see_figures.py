"""What ``transnext see`` loads and writes: models in their modes, figures and their numbers."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from ..classification.classifier import DEFAULT_MODEL, Classifier, resolve_device
from ..classification.preprocess import Preprocess
from ..evaluation.models import MODES, load_evaluated, mode_options
from ..images import ImageError, find_images, read_image
from ..registry import load_model
from ..seeing import (
    draw_erf,
    draw_foveal,
    draw_query,
    effective_receptive_fields,
    record_attention,
)
from ..seeing.canvas import FORMATS, as_file
from ..seeing.viewer import Subject
from .console import note, usage_error

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["attention", "check_mode", "receptive_fields", "subject", "write"]

_STAGES = (1, 2, 3, 4)


def check_mode(mode: str) -> None:
    """End the command for a mode that does not exist."""
    if mode not in MODES:
        usage_error(f"got {mode!r}, needs one of {', '.join(MODES)}", "--mode")


def subject(
    model: str | None,
    weights: str | None,
    key: str | None,
    size: int | None,
    mode: str,
    device: str,
    backend: str | None,
) -> Subject:
    """Return a model in a mode, with its labels and preprocessing."""
    classifier = Classifier.load(model, weights, key=key, size=size, device=device, backend=backend)
    if options := mode_options(mode, classifier.model):
        built = load_model(classifier.name, classifier.weights, key=key, backend=backend, **options)
        classifier = Classifier(
            built.model,
            classifier.preprocess,
            classifier.labels,
            name=classifier.name,
            weights=classifier.weights,
            device=classifier.device,
        )
    return Subject(classifier, "" if mode == "normal" else mode)


def attention(
    seen: Subject,
    image: Image.Image,
    foveal: bool,
    pixel: tuple[float, float] | None,
    stage: int,
    block: int,
    output: Path | None,
) -> list[Path]:
    """Draw figure 7, or the attention of one pixel, of one image; return the files."""
    record = record_attention(seen.classifier.model, image, seen.classifier.preprocess)
    position = None if pixel is None else record.position(stage, pixel)
    query = record.query(stage, block, position)
    numbers: dict[str, Any] = {
        "model": seen.name,
        "stage": stage,
        "block": query.block,
        "position": query.position,
        "grid": query.grid,
        "pool_grid": query.pool_grid,
    }
    if foveal:
        figure = draw_foveal(record, stage, block, position)
        maps = {
            "foveal": record.foveal(stage, block, position),
            "peripheral": record.peripheral(stage, block, position),
        }
    else:
        figure = draw_query(record, stage, block, position)
        maps = {name: getattr(query, name) for name in ("window", "pooled", "positional")}
        for name in ("foveal_share", "entropy", "mean_distance"):
            numbers[name] = getattr(query, name)().tolist()
    numbers |= {name: values.tolist() for name, values in maps.items()}
    target = output or Path("foveal.png" if foveal else "query.png")
    return _save(figure, numbers, _cells(maps), target)


def receptive_fields(
    folder: Path,
    models: list[str | None],
    weights: str | None,
    key: str | None,
    size: int | None,
    mode: str,
    stage: int | None,
    count: int,
    device: str,
    output: Path | None,
) -> list[Path]:
    """Draw figure 8 of some models over a folder's first images, warped; return the files."""
    found = find_images([str(folder)])
    if not found.paths:
        raise ValueError(f"--erf: got {folder}, needs a folder with images")
    fields, titles = [], []
    for index, name in enumerate(models):
        first = index == 0
        loaded = load_evaluated(
            name or (None if weights else DEFAULT_MODEL),
            weights if first else None,
            key=key if first else None,
        )
        if mode not in loaded.modes:
            raise ValueError(f"--mode: got {mode!r}, needs normal for {loaded.name}")
        module = loaded.build(mode, resolve_device(device), "float32").module
        preprocess: Any = loaded.normal(size or loaded.own_size)
        if isinstance(preprocess, Preprocess):
            preprocess = dataclasses.replace(preprocess, crop_mode="squash", crop_pct=1.0)
        stages = (stage,) if stage else _STAGES
        images = _readable(found.paths[:count])
        fields += effective_receptive_fields(module, images, stages, preprocess=preprocess)
        titles += [f"{loaded.name}\nstage {one}" for one in stages]
    numbers: dict[str, Any] = {
        "images": [str(path) for path in found.paths[:count]],
        "fields": [
            {
                "name": title.replace("\n", ", "),
                "position": field.position,
                "images": field.images,
                "skipped": field.skipped,
                "sum": field.total,
                "max": field.largest,
                "area_ratios": [ratio._asdict() for ratio in field.area_ratios()],
                "radial_profile": field.radial_profile().tolist(),
                "grid_energy": field.grid_energy(max(field.map.shape) / max(field.grid)),
            }
            for title, field in zip(titles, fields, strict=True)
        ],
    }
    for entry in numbers["fields"]:
        note(f"{entry['name']}: E sums to {entry['sum']:.3g}, its maximum is {entry['max']:.3g}")
    target = output or Path("erf.png")
    return _save(draw_erf(fields, titles), numbers, _field_rows(numbers["fields"]), target)


def write(path: Path, data: bytes) -> None:
    """Write a file as a whole, or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _readable(paths: list[Path]) -> Iterator[Image.Image]:
    for path in paths:
        try:
            yield read_image(path)
        except ImageError as error:
            note(f"skipped {error}")


def _cells(maps: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a row for each cell of maps ``[heads, rows, columns]``."""
    for name, values in maps.items():
        for head, rows in enumerate(values.tolist(), 1):
            for row, columns in enumerate(rows):
                for column, value in enumerate(columns):
                    cell = {"row": row, "column": column, "value": value}
                    yield {"map": name, "head": head, **cell}


def _field_rows(fields: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield a row for each receptive field: what is one number, and its area ratios."""
    for field in fields:
        single = {k: v for k, v in field.items() if not isinstance(v, (list, tuple))}
        for ratio in field["area_ratios"]:
            for name, value in ratio.items():
                if name != "threshold":
                    single[f"area_{100 * ratio['threshold']:g}_{name}"] = value
        yield single


def _save(
    figure: Figure, numbers: dict[str, Any], rows: Iterable[dict[str, Any]], path: Path
) -> list[Path]:
    """Write a figure, and beside it its numbers as JSON and as a table; return the files."""
    kind = path.suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        usage_error(f"got {path}, needs a name that ends in .png or .svg", "--output")
    table = list(rows)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(table[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    written = {
        path: as_file(figure, kind),
        path.with_suffix(".json"): json.dumps(numbers, indent=1).encode(),
        path.with_suffix(".csv"): text.getvalue().encode(),
    }
    for file, content in written.items():
        write(file, content)
    return list(written)
