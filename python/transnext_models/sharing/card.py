"""The card of a shared model: what it is, how to use it, what was measured and what published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from ..variants import Checkpoint, Metrics, Variant

__all__ = ["model_card"]

_COLUMNS = {
    "imagenet_1k": "ImageNet-1K",
    "imagenet_a": "ImageNet-A",
    "imagenet_c_mce": "ImageNet-C (mCE, lower is better)",
    "imagenet_r": "ImageNet-R",
    "imagenet_sketch": "ImageNet-Sketch",
    "imagenet_v2": "ImageNet-V2",
}
_HEAD = """\
---
library_name: timm
pipeline_tag: image-classification
license: apache-2.0
tags:
- image-classification
- timm
- transformers
- transnext
---
"""
_USAGE = """\
## Use

```python
import torch
from transnext_models import TransNeXt

model = TransNeXt.from_pretrained("{repo}")
with torch.inference_mode():
    output = model(torch.randn(1, {channels}, {side}, {side}))
```

After `import transnext_models`, `timm.create_model("hf-hub:{repo}", pretrained=True)` and
`AutoModelForImageClassification.from_pretrained("{repo}")` of transformers work as well.
"""
_CITATION = """\
## Citation

```bibtex
@InProceedings{shi2023transnext,
  author    = {Dai Shi},
  title     = {TransNeXt: Robust Foveal Visual Perception for Vision Transformers},
  booktitle = {Proceedings of the IEEE/CVF Conference on Computer Vision and Pattern Recognition (CVPR)},
  month     = {June},
  year      = {2024},
  pages     = {17773-17783}
}
```
"""  # noqa: E501


def model_card(
    repo: str,
    variant: Variant,
    config: Mapping[str, Any],
    parameters: int,
    results: Mapping[str, float | str] | None = None,
) -> str:
    """Return the card as Markdown, with the Hub's metadata at its head.

    Parameters
    ----------
    repo : str
        Name of the repository or folder.
    variant : Variant
        The architecture that the model is saved as.
    config : Mapping
        Its ``config.json``.
    parameters : int
        Number of its parameters.
    results : Mapping | None
        What its owner measured of these weights: value by name.
    """
    told = config["pretrained_cfg"]
    channels, side, _ = told["input_size"]
    facts = {
        "architecture": variant.name,
        "parameters": f"{parameters / 1e6:.1f} M",
        "image": f"{channels} x {side} x {side}; any size from 32 x 32 works",
        "preprocessing": f"{told['interpolation']}, {told['crop_mode']} crop {told['crop_pct']}, "
        f"mean {_numbers(told['mean'])}, standard deviation {_numbers(told['std'])}",
        "classes": str(config["num_classes"]),
    }
    if config["model_args"]:
        facts["built with"] = ", ".join(f"{k}={v!r}" for k, v in config["model_args"].items())
    parts = [
        _HEAD,
        f"# {repo}\n\nTransNeXt, a vision backbone with foveal attention "
        "([paper](https://arxiv.org/abs/2311.17132)).\n",
        "".join(f"- **{name}**: {text}\n" for name, text in facts.items()),
    ]
    if results:
        rows = "".join(f"| {name} | {value} |\n" for name, value in results.items())
        parts.append(f"## Results of these weights\n\n| measured | value |\n| --- | --- |\n{rows}")
    if any(_published(checkpoint.metrics) for checkpoint in variant.checkpoints):
        parts.append(_table(variant))
    if config["num_classes"]:
        address = repo if "/" in repo else f"OWNER/{repo}"
        parts.append(_USAGE.format(repo=address, channels=channels, side=side))
    return "\n".join([*parts, _CITATION])


def _table(variant: Variant) -> str:
    """Return the published numbers, of the published weights and not of those that are shared."""
    shown = [c for c in variant.checkpoints if _published(c.metrics)]
    names = [name for name in _COLUMNS if any(getattr(c.metrics, name) for c in shown)]
    head = ["published weights", "image", "multiply-adds", *(_COLUMNS[name] for name in names)]
    rows = [head, ["---"] * len(head), *(_row(variant, c, names) for c in shown)]
    lines = "".join(f"| {' | '.join(row)} |\n" for row in rows)
    return (
        "## Published numbers\n\nTop-1 accuracy in %, as published for the weights of the paper's "
        f"author; weights that were trained on have others.\n\n{lines}"
    )


def _row(variant: Variant, checkpoint: Checkpoint, names: Sequence[str]) -> list[str]:
    values = (getattr(checkpoint.metrics, name) for name in names)
    return [
        f"{variant.name}.{checkpoint.tag}",
        str(checkpoint.img_size),
        f"{checkpoint.gmacs:.2f} G",
        *("–" if value is None else f"{value:.1f}" for value in values),
    ]


def _published(metrics: Metrics) -> bool:
    return any(getattr(metrics, field.name) is not None for field in fields(metrics))


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:g}" for value in values)
