"""Fine-tune a model on a folder of images, then classify with the result.

Run: ``pip install ".[train]"`` and ``python examples/finetune_folder.py DATA OUTPUT [MODEL]``,
where DATA has ``train/<class>/*.png`` and ``val/<class>/*.png``. MODEL defaults to the digits model
that the package ships; for photographs take transnext_tiny (its weights are downloaded once).
"""

import sys
from pathlib import Path

from transnext_models.classifier import Classifier
from transnext_models.training.run import RunOptions, train
from transnext_models.variants import find_checkpoint


def main(data: str, output: str, model: str = "transnext_pico") -> None:
    """Fine-tune ``model`` for two epochs and print what it takes the validation images for."""
    size = find_checkpoint(model)[1].img_size
    classes = sorted(path.name for path in Path(data, "train").iterdir() if path.is_dir())
    result = train(
        RunOptions(
            recipe="imagenet_224", data=data, output=Path(output), model=model, weights=model,
            num_classes=len(classes), img_size=size, epochs=2, batch_size=8,
            lr=1e-4, workers=0,
        )
    )  # fmt: skip
    print(f"after two epochs: {result.metrics}")
    classifier = Classifier.load(model, weights=result.weights, device="cpu")
    images = sorted(Path(data, "val").rglob("*.png"))
    for image, answer in zip(images, classifier.classify(images), strict=True):
        best = answer.predictions[0]
        print(f"{image.parent.name}/{image.name}: {classes[best.index]} ({best.probability:.0%})")


if __name__ == "__main__":
    main(*sys.argv[1:])
