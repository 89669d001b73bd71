"""Hidden folders and files beside training images are neither classes nor images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from transnext_models import VARIANTS
from transnext_models.classification.preprocess import Preprocess
from transnext_models.training.data import ImageData
from transnext_models.training.recipes import get_recipe


def put(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (32, 32)).save(path, "PNG")


def image_data(folder: Path) -> ImageData:
    preprocess = Preprocess.of(VARIANTS["transnext_tiny"].default, 32)
    recipe = get_recipe("imagenet_224")
    return ImageData(str(folder), recipe, preprocess, batch_size=2, workers=0, seed=0)


def test_hidden_folders_are_no_classes(tmp_path):
    """Of one split only, as a notebook or a network storage leaves them."""
    for split in ("train", "val"):
        for name in ("ant", "bee"):
            for index in range(3):
                put(tmp_path / split / name / f"{index}.png")
    put(tmp_path / "train" / ".ipynb_checkpoints" / "0.png")
    put(tmp_path / "train" / "@eaDir" / "ant" / "0.png")
    put(tmp_path / "train" / "ant" / "._0.png")
    data = image_data(tmp_path)
    assert data.num_classes == 2
    assert data.class_names == ("ant", "bee")
    assert [label for _, label, _ in data.train_set] == [0, 0, 0, 1, 1, 1]


def test_only_hidden_images_are_none(tmp_path):
    for split in ("train", "val"):
        put(tmp_path / split / ".ipynb_checkpoints" / "0.png")
    with pytest.raises(ValueError, match=r"val: holds no images, needs val/<class>/<image>"):
        image_data(tmp_path)
