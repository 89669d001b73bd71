"""Detection and segmentation as tasks of the trainer."""

from __future__ import annotations

import dataclasses
import sys
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.fabric import Fabric
from torch import nn

from ..dense_data.find import open_annotations
from ..dense_registry import NO_MASKS
from ..registry import create_model
from ..segmentation import SLIDE, WHOLE_PADDED
from ..training.export import named_classes
from ..training.freezing import freeze_named
from ..training.history import columns_with
from ..training.task import Finished, Task
from .data import DenseData
from .first_weights import source_of
from .module import DenseModule
from .options import DenseOptions, check_dense_options
from .report import dense_report
from .settings import DenseSettings
from .validation import BOX_AP, MASK_AP, MIOU, FoundOnImages, LabelledPixels

__all__ = ["DETECTION", "SEGMENTATION"]


class _Dense(Task[DenseOptions, DenseSettings]):
    """What both have in common.

    Attributes
    ----------
    kind : {"detect", "segment"}
        Which.
    default_model : str
        Where none is named.
    score : str
        The measure that tells the best validation.
    """

    kind: ClassVar[Any]
    default_model: ClassVar[str]
    score: ClassVar[str]
    exports_whole = True

    def check_options(self, options: DenseOptions) -> None:
        """See `options.check_dense_options`."""
        check_dense_options(options)

    def settings(
        self, options: DenseOptions, processes: int, configuration: Mapping[str, Any] | None = None
    ) -> DenseSettings:
        """See `DenseSettings.of`; ValueError for a model of another kind too."""
        settings = DenseSettings.of(options, self.default_model, processes, configuration)
        if settings.model.method.task != self.kind:
            raise ValueError(
                f"--model: got {settings.model_name}, which can {settings.model.method.task}, "
                f"needs a model to {self.kind}"
            )
        return settings

    def data(self, options: DenseOptions, settings: DenseSettings) -> DenseData:
        """Read the annotations, and say how entries were treated."""
        assert options.data is not None
        splits = open_annotations(
            options.data,
            self.kind,
            allow_missing=options.allow_missing,
            val_share=options.val_share,
            seed=options.seed,
        )
        for split in (splits.train, splits.val):
            for line in split.report.lines():
                print(f"{split.source}: {line}", file=sys.stderr, flush=True)
        method = settings.method
        if method.needs_masks and not splits.train.has_masks:
            print("no masks: boxes and classes are trained", file=sys.stderr, flush=True)
            method = dataclasses.replace(method, needs_masks=False)
        steps = settings.steps_per_epoch
        return DenseData(
            splits,
            method,
            settings.batch_size,
            options.workers,
            options.seed,
            None if steps is None else steps * settings.accumulate,
        )

    def model(
        self,
        options: DenseOptions,
        settings: DenseSettings,
        data: Any,
        pretrain_size: int | None,
    ) -> Any:
        """Return the model, with its first weights, and with what is not trained frozen."""
        arguments: dict[str, Any] = {
            "num_classes": data.num_classes,
            "drop_path_rate": settings.drop_path,
            "backend": options.backend,
        }
        size = pretrain_size or options.pretrain_size
        if size is not None:
            arguments["pretrain_size"] = size
        if pretrain_size is None:
            arguments["weights"] = None if options.weights is None else source_of(options.weights)
            arguments["backbone_weights"] = options.backbone_weights
        if arguments.get("weights") is None:  # those bring theirs
            arguments["img_size"] = settings.img_size
        with torch.random.fork_rng():
            torch.manual_seed(options.seed)
            model = create_model(settings.model_name, **arguments)
        freeze_named(model, settings.recipe.freeze, "backbone.")
        if hasattr(model, "roi_head") and not data.method.needs_masks:
            model.roi_head.mask_head.requires_grad_(False)
            model.has_masks = False
        elif hasattr(model, "has_masks"):
            model.has_masks = True
        return model

    def module(
        self,
        options: DenseOptions,
        settings: DenseSettings,
        data: Any,
        model: nn.Module,
        fabric: Fabric,
    ) -> DenseModule:
        """Return what trains the model; its BatchNorms are synchronised on several GPUs."""
        several = fabric.world_size > 1
        if several and fabric.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return DenseModule(
            model,
            settings,
            data.batches_of_steps(settings.accumulate) // settings.accumulate,
            self.score,
            lambda evaluated, on: self.measures(settings, data, evaluated, on),
            options.shard_optimizer and several,
        )

    @abstractmethod
    def measures(
        self, settings: DenseSettings, data: DenseData, model: Any, fabric: Fabric
    ) -> FoundOnImages | LabelledPixels:
        """Return what measures a validation of `model`."""

    def described(self, settings: DenseSettings, data: Any, model: Any) -> dict[str, Any]:
        """Return sizes, and the rate of stochastic depth."""
        return {
            "task": self.kind,
            "img_size": model.backbone.img_size,
            "pretrain_size": model.backbone.pretrain_size,
            "scale": list(settings.scale),
            "drop_path": settings.drop_path,
            "iterations": None
            if settings.steps_per_epoch is None
            else settings.steps_per_epoch * settings.epochs,
            "masks": data.method.needs_masks,
        }

    def metadata(self, settings: DenseSettings, data: Any, model: Any) -> dict[str, str]:
        """Return what exported weights are told to be."""
        long, short = settings.scale
        return {
            "model": settings.model_name,
            "task": self.kind,
            "recipe": settings.recipe.name,
            "num_classes": str(data.num_classes),
            "img_size": str(model.backbone.img_size),
            "pretrain_size": str(model.backbone.pretrain_size),
            "scale": f"{long},{short}",
            **({} if data.method.needs_masks else {"masks": NO_MASKS}),
            **named_classes(data.class_names, data.num_classes),
        }

    def report(
        self,
        options: DenseOptions,
        settings: DenseSettings,
        data: Any,
        model: Any,
        fabric: Fabric,
        run: Finished,
    ) -> str:
        """Return curves, and the scores of the best weights' classes."""
        best = create_model(
            settings.model_name, weights=run.weights, img_size=model.backbone.img_size,
            pretrain_size=model.backbone.pretrain_size, backend=options.backend,
        )  # fmt: skip
        fabric.to_device(best.eval())
        measures = self.measures(settings, data, best, fabric)
        data.shard(0, 1, None, options.limit_val_batches)
        images = 0
        with torch.no_grad():
            for loaded in data.val_batches():
                validated = data.validation_batch(loaded)
                images += validated.batch is not None
                measures.add(fabric.to_device(validated))
        return dense_report(run, images, data.class_names, measures.of_classes())

    def loss_scale(self, settings: DenseSettings) -> float | None:
        """Return the recipe's."""
        return settings.recipe.loss_scale


class _Detection(_Dense):
    kind = "detect"
    default_model = "maskrcnn_transnext_tiny"
    score = BOX_AP
    columns = columns_with(BOX_AP, "val_box_ap50", MASK_AP)

    def measures(
        self, settings: DenseSettings, data: DenseData, model: Any, fabric: Fabric
    ) -> FoundOnImages | LabelledPixels:
        """Return average precision of boxes, and of masks where they are trained."""
        annotated = data.splits.val
        with_masks = data.method.needs_masks and annotated.has_masks
        return FoundOnImages(model, fabric, annotated, with_masks)


class _Segmentation(_Dense):
    kind = "segment"
    default_model = "upernet_transnext_tiny"
    score = MIOU
    columns = columns_with(MIOU, "val_pixel_accuracy")

    def measures(
        self, settings: DenseSettings, data: DenseData, model: Any, fabric: Fabric
    ) -> FoundOnImages | LabelledPixels:
        """Return mean IoU: by windows for UPerNet, of whole images for Mask2Former."""
        inference = SLIDE if settings.recipe.method == "upernet" else WHOLE_PADDED
        assert data.num_classes is not None
        return LabelledPixels(model, fabric, inference, data.num_classes)


DETECTION = _Detection()
SEGMENTATION = _Segmentation()
