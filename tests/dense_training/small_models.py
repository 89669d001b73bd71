"""DINO and Mask2Former on the smallest backbone, by name; and `transnext train` that knows them."""

from __future__ import annotations

from dataclasses import replace

from transnext_models.dense.published import DEMONSTRATORS, KNOWN_DENSE_MODELS, METHODS, DenseModel


def _small(method: str, **heads: int) -> DenseModel:
    # 64 channels: GroupNorm has 32 groups, and needs two values in each of a map of one cell.
    heads |= {"channels": 64, "num_queries": 12}
    like = DEMONSTRATORS["maskrcnn_transnext_pico"]
    return replace(like, method=METHODS[method], tag="small", file="", heads=heads)


DINO, MASK2FORMER = _small("dino_4scale", hidden=64), _small("mask2former")
SMALL_MODELS = {model.name: model for model in (DINO, MASK2FORMER)}


if __name__ == "__main__":
    from transnext_models.cli import main

    KNOWN_DENSE_MODELS.update(SMALL_MODELS)
    main()
