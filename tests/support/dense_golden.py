"""Golden data of detection and segmentation: what the published models gave for one photograph.

The weights of a case are drawn from generators that the state-dict keys seed (`fill_value`), so no
checkpoint is needed. Cases are files of ``golden/dense``; ``../shared/golden/dense`` beside the
repository is searched as well where it exists.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import golden_data
from golden_data import max_relative_error

RAW_TOLERANCE = 1e-4
"""Largest `relative_error` of maps, logits and losses, in float32."""

MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)

# (pattern of the key, factor on its weight): scores are spread and masks are not trivial.
_GAINS = [
    (r"rpn_head\.rpn_cls\.weight$", 2.0),
    (r"rpn_head\.rpn_reg\.weight$", 0.2),
    (r"roi_head\.bbox_head\.fc_cls\.weight$", 2.5),
    (r"roi_head\.mask_head\.conv_logits\.weight$", 4.0),
    (r"bbox_head\.cls_branches\.\d+\.weight$", 1.5),
    (r"bbox_head\.reg_branches\.\d+\.4\.weight$", 0.3),
    (r"transformer_decoder\.layers\.\d+\..*(out_proj|ffn\.layers\.1)\.weight$", 0.1),
    (r"(encoder|decoder)\.layers\.\d+\..*(out_proj|output_proj|ffn\.layers\.1)\.weight$", 0.3),
    (r"conv_seg\.weight$", 6.0),
    (r"decode_head\.cls_embed\.weight$", 4.0),
    (r"decode_head\.mask_embed\.4\.weight$", 2.0),
]
_EMBEDDINGS = (
    "query_embed",
    "query_feat",
    "query_embedding",
    "label_embedding",
    "level_encoding",
    "level_embed",
)
_FROM_THE_CLASSIFIER = (
    "temperature",
    "query_embedding",
    "relative_pos_bias_local",
    "learnable_tokens",
    "learnable_bias",
)
_FOLDERS = [folder / "dense" for folder in golden_data.golden_directories()]


def _find(name: str) -> Path:
    return next(folder / name for folder in _FOLDERS if (folder / name).is_file())


def fill_value(key: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return the value of one state-dict entry; it depends on nothing but key and shape."""
    owner, leaf = ["", *key.split(".")][-2:]
    if leaf in _FROM_THE_CLASSIFIER or owner in ("cpb_fc1", "cpb_fc2"):
        return golden_data.fill_value(key, shape)
    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    seed = int.from_bytes(hashlib.sha256(key.encode("utf-8")).digest()[:8], "big")
    z = np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)
    if leaf == "running_var":
        value = np.exp(0.2 * z)
    elif leaf == "level_embed" or (leaf == "weight" and owner in _EMBEDDINGS):
        value = z
    elif owner == "sampling_offsets" and leaf == "bias":
        value = 2.0 * z
    elif leaf == "weight" and len(shape) == 1:
        value = 1.0 + 0.1 * z
    elif leaf in ("weight", "in_proj_weight"):
        gain = next((gain for pattern, gain in _GAINS if re.search(pattern, key)), 1.0)
        value = gain * (z / np.sqrt(np.prod(shape[1:])))
    elif re.search(r"bbox_head\.cls_branches\.\d+\.bias$", key):
        value = -3.0 + 0.1 * z
    elif leaf in ("running_mean", "bias", "in_proj_bias"):
        value = 0.1 * z
    else:
        raise ValueError(f"key: the golden fill rule has no line for {key!r}")
    return value.astype(np.float32)


def fill(model: nn.Module) -> None:
    """Give a model the golden weights."""
    state = {
        key: torch.from_numpy(fill_value(key, tuple(x.shape)))
        for key, x in model.state_dict().items()
    }
    model.load_state_dict(state, assign=True)


def photo() -> torch.Tensor:
    """Return the normalised photograph, ``[1, 3, 213, 320]``."""
    with np.load(_find("photo.npz")) as archive:
        pixels = torch.from_numpy(archive["rgb"]).float()
    return ((pixels - torch.tensor(MEAN)) / torch.tensor(STD)).permute(2, 0, 1)[None]


@lru_cache
def published_shapes() -> dict[str, dict[str, list[int]]]:
    """Return ``{model: {state-dict key: shape}}`` of the thirteen published models."""
    with gzip.open(_find("state_dicts.json.gz")) as file:
        return json.load(file)


class DenseCase:
    """One case, its arrays by name."""

    def __init__(self, name: str) -> None:
        with np.load(_find(f"{name}.npz")) as archive:
            self.arrays: dict[str, Any] = {key: archive[key] for key in archive.files}

    @property
    def losses(self) -> dict[str, float]:
        """The published losses by name; ``loss`` is their sum."""
        names = json.loads(str(self.arrays["loss_names_json"]))
        return dict(zip(names, self.arrays["losses"].tolist(), strict=True))

    def relative_error(self, name: str, actual: torch.Tensor) -> float:
        """Return max abs difference over max abs value, of the samples that the file has.

        It is infinite for another shape or another sum of squares, which covers the whole.
        """
        found = actual.detach().double().numpy()
        if tuple(self.arrays[f"{name}_shape"]) != found.shape:
            return float("inf")
        squares = float(self.arrays[f"{name}_sumsq"])
        if not abs(float(np.square(found).sum()) - squares) <= 1e-3 * squares:
            return float("inf")
        samples = found.reshape(-1)[:: int(self.arrays[f"{name}_step"])]
        return max_relative_error(samples, self.arrays[name])
