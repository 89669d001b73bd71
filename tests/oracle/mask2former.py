"""Compare Mask2Former with MMSegmentation's: tests/oracle/mask2former.py; see CONTRIBUTING."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from dense_golden import fill, photo
from oracle.openmmlab import (
    built,
    difference,
    relative,
    report,
    stand_in_for_compiled_operators,
    two_images,
)
from oracle.ties import SameRanks, float64

stand_in_for_compiled_operators()

import mmdet.models  # noqa: E402, F401
import mmseg.models  # noqa: E402, F401
from mmengine.structures import PixelData  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from transnext_models import create_model  # noqa: E402
from transnext_models.segmentation import Mask2Former  # noqa: E402
from transnext_models.segmentation.mask_decoder import Mask2FormerHead, QueryPrediction  # noqa: E402
from transnext_models.segmentation.mask_losses import mask_losses, segments_of  # noqa: E402

SIZE = (224, 320)
CLASSES = 150


def config(channels: list[int]) -> dict[str, Any]:
    """Return MMSegmentation's head of the published settings."""
    attention = {"embed_dims": 256, "num_heads": 8, "batch_first": True}
    plain = attention | {"attn_drop": 0.0, "proj_drop": 0.0}
    relu = {"type": "ReLU", "inplace": True}
    ffn = {"embed_dims": 256, "num_fcs": 2, "ffn_drop": 0.0, "act_cfg": relu}
    sine = {"num_feats": 128, "normalize": True}
    costs = [
        {"type": "mmdet.ClassificationCost", "weight": 2.0},
        {"type": "mmdet.CrossEntropyLossCost", "weight": 5.0, "use_sigmoid": True},
        {"type": "mmdet.DiceCost", "weight": 5.0, "pred_act": True, "eps": 1.0},
    ]
    entropy = {"type": "mmdet.CrossEntropyLoss", "reduction": "mean"}
    return {
        "type": "mmseg.Mask2FormerHead",
        "in_channels": channels, "strides": [4, 8, 16, 32],
        "feat_channels": 256, "out_channels": 256, "num_classes": CLASSES, "num_queries": 100,
        "num_transformer_feat_level": 3, "align_corners": False,
        "pixel_decoder": {
            "type": "mmdet.MSDeformAttnPixelDecoder", "num_outs": 3, "act_cfg": {"type": "ReLU"},
            "norm_cfg": {"type": "GN", "num_groups": 32},
            "encoder": {
                "num_layers": 6,
                "layer_cfg": {
                    "self_attn_cfg": attention
                    | {"num_levels": 3, "num_points": 4, "im2col_step": 64, "dropout": 0.0},
                    "ffn_cfg": ffn | {"feedforward_channels": 1024},
                },
            },
            "positional_encoding": sine,
        },
        "enforce_decoder_input_project": False,
        "positional_encoding": sine,
        "transformer_decoder": {
            "return_intermediate": True, "num_layers": 9,
            "layer_cfg": {
                "self_attn_cfg": plain, "cross_attn_cfg": plain,
                "ffn_cfg": ffn | {"feedforward_channels": 2048, "add_identity": True},
            },
        },
        "loss_cls": entropy
        | {"use_sigmoid": False, "loss_weight": 2.0, "class_weight": [1.0] * CLASSES + [0.1]},
        "loss_mask": entropy | {"use_sigmoid": True, "loss_weight": 5.0},
        "loss_dice": {
            "type": "mmdet.DiceLoss", "use_sigmoid": True, "activate": True,
            "reduction": "mean", "naive_dice": True, "eps": 1.0, "loss_weight": 5.0,
        },
        "train_cfg": {
            "num_points": 12544, "oversample_ratio": 3.0, "importance_sample_ratio": 0.75,
            "assigner": {"type": "mmdet.HungarianAssigner", "match_costs": costs},
            "sampler": {"type": "mmdet.MaskPseudoSampler"},
        },
    }  # fmt: skip


def labels_of_two() -> Tensor:
    """Return made-up labels: tiles of many classes, and one class in a corner of nothing."""
    rows, columns = torch.meshgrid(*map(torch.arange, SIZE), indexing="ij")
    labels = torch.full((2, *SIZE), 255)
    labels[0] = (rows // 56 * 7 + columns // 64 * 3) % CLASSES
    labels[0, :8] = 255
    labels[1, 50:90, 20:200] = 3
    return labels


def losses_of(predictions: list[QueryPrediction], labels: Tensor) -> dict[str, Tensor]:
    """Return the losses by MMSegmentation's names."""
    segments = [segments_of(image) for image in labels]
    last = len(predictions) - 1
    return {
        name if layer == last else f"d{layer}.{name}": value
        for layer, prediction in enumerate(predictions)
        for name, value in mask_losses(prediction, segments).items()
    }


def compare_losses(
    theirs: Any, predictions: list[QueryPrediction], samples: list[SegDataSample], labels: Tensor
) -> bool:
    """Compare the losses of the same predictions, at the same points and random draws.

    Of 37632 points of a mask the 9408 with the smallest logits are kept: near the last of them, two
    that are nearly tied may be on different sides of a segment's edge.
    """
    fine = True
    for name in ("one class in the second image", "none"):
        label_samples(samples, labels)
        ranks = SameRanks()
        torch.manual_seed(7)
        with ranks:
            instances, metas = theirs._seg_data_to_instance_data(samples)
            expected = theirs.loss_by_feat(*zip(*predictions, strict=True), instances, metas)
        torch.manual_seed(7)
        with ranks:
            found = losses_of(predictions, labels)
        worst = max(relative(found[key].detach(), expected[key].detach()) for key in expected)
        fine &= report(f"losses, {name}", worst, 1e-5)
        fine &= report(f"points that swapped, {name}", ranks.apart, 1e-5)
        labels[1] = 255
    return fine


def compare_in_float64(ours: Mask2FormerHead, theirs: Any, maps: list[Tensor]) -> bool:
    """Compare all predictions and their losses, each with masks and points of its own."""
    for head in (ours, theirs):
        head.double()
    maps = [x.double() for x in maps]
    samples = [SegDataSample(metainfo={"img_shape": SIZE}) for _ in range(2)]
    labels = labels_of_two()
    label_samples(samples, labels)
    fine = True
    with torch.no_grad(), float64():
        torch.manual_seed(7)
        classes, masks = theirs(maps, samples)
        expected = theirs.loss(maps, samples, None)
        torch.manual_seed(7)
        predictions = ours(maps)
        found = losses_of(predictions, labels)
    for i, prediction in enumerate(predictions):
        fine &= report(f"classes, prediction {i}", difference(prediction.classes, classes[i]), 1e-6)
        fine &= report(f"masks, prediction {i}", difference(prediction.masks, masks[i]), 1e-6)
    worst = max(relative(found[key], expected[key]) for key in expected)
    return fine & report("losses, own points", worst, 1e-6)


def label_samples(samples: list[SegDataSample], labels: Tensor) -> None:
    for sample, image in zip(samples, labels, strict=True):
        sample.gt_sem_seg = PixelData(data=image[None])


def main() -> int:
    """Compare predictions, scores and losses of Tiny; return the exit code.

    A cell that a query may look at is one whose logit is above zero: near it, rounding decides, so
    that all predictions are compared in float64, and the scores in float32.
    """
    with torch.device("meta"):
        ours: Mask2Former = create_model("mask2former_transnext_tiny")
    fill(ours)
    ours.eval()
    theirs = built(MODELS, "mmseg", config(ours.widths), ours.decode_head)
    images = two_images(photo(), SIZE)
    samples = [SegDataSample(metainfo={"img_shape": SIZE}) for _ in range(2)]
    shapes = [{"img_shape": SIZE, "pad_shape": SIZE}] * 2
    with torch.no_grad():
        maps = ours.backbone(images)
        worst = difference(ours(images), theirs.predict(maps, shapes, None))
    fine = report("scores in float32", worst, 1e-4)
    predictions = ours.decode_head(maps)
    fine &= compare_losses(theirs, predictions, samples, labels_of_two())
    print("in float64")
    return 0 if fine & compare_in_float64(ours.decode_head, theirs, maps) else 1


if __name__ == "__main__":
    sys.exit(main())
