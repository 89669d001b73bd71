"""Compare Mask R-CNN with MMDetection's: tests/oracle/mask_rcnn.py; see CONTRIBUTING.

Losses take every candidate, so that nothing in them is random.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor

from dense_golden import fill, photo
from oracle.openmmlab import (
    SIZE,
    SMALL,
    built,
    difference,
    register_no_backbone,
    relative,
    report,
    stand_in_for_compiled_operators,
    two_images,
)

stand_in_for_compiled_operators()

import mmdet.models  # noqa: E402, F401
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmdet.structures.mask import BitmapMasks  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from transnext_models import create_model  # noqa: E402
from transnext_models.detection import Annotated, MaskRCNN  # noqa: E402
from transnext_models.detection.assignment import Sampler  # noqa: E402
from transnext_models.detection.rpn import ProposalSettings  # noqa: E402

register_no_backbone(MODELS)

PADDED = (224, 320)
SIZES = [SIZE, SMALL]
OWN_PADDED = [PADDED, (160, 256)]
BOXES = [
    torch.tensor([[20.0, 30, 140, 150], [100, 60, 300, 200], [180, 10, 230, 70]]),
    torch.tensor([[10.0, 20, 90, 120]]),
]
LABELS = [torch.tensor([1, 56, 17]), torch.tensor([3])]
EVERYTHING = 10**7


def config(channels: list[int]) -> dict[str, Any]:
    """Return MMDetection's Mask R-CNN of the published settings, with samplers that take all."""
    sampler = {
        "type": "RandomSampler", "num": EVERYTHING, "pos_fraction": 1.0, "neg_pos_ub": -1,
    }  # fmt: skip
    proposals = {
        "nms_pre": 1000, "max_per_img": 1000, "min_bbox_size": 0,
        "nms": {"type": "nms", "iou_threshold": 0.7},
    }  # fmt: skip

    def assigner(positive: float, negative: float, least: float) -> dict[str, Any]:
        return {
            "type": "MaxIoUAssigner", "pos_iou_thr": positive, "neg_iou_thr": negative,
            "min_pos_iou": least, "match_low_quality": True, "ignore_iof_thr": -1,
        }  # fmt: skip

    def coder(*deviations: float) -> dict[str, Any]:
        return {
            "type": "DeltaXYWHBBoxCoder", "target_means": [0.0] * 4, "target_stds": deviations,
        }  # fmt: skip

    def regions(side: int) -> dict[str, Any]:
        align = {"type": "RoIAlign", "output_size": side, "sampling_ratio": 0}
        return {
            "type": "SingleRoIExtractor", "out_channels": 256, "featmap_strides": [4, 8, 16, 32],
            "roi_layer": align | {"use_torchvision": True},
        }  # fmt: skip

    entropy, distance = {"type": "CrossEntropyLoss"}, {"type": "L1Loss", "loss_weight": 1.0}
    return {
        "type": "MaskRCNN",
        "data_preprocessor": {"type": "DetDataPreprocessor"},
        "backbone": {"type": "NoBackbone"},
        "neck": {"type": "FPN", "in_channels": channels, "out_channels": 256, "num_outs": 5},
        "rpn_head": {
            "type": "RPNHead", "in_channels": 256, "feat_channels": 256,
            "anchor_generator": {
                "type": "AnchorGenerator", "scales": [8], "ratios": [0.5, 1.0, 2.0],
                "strides": [4, 8, 16, 32, 64],
            },
            "bbox_coder": coder(1.0, 1.0, 1.0, 1.0),
            "loss_cls": entropy | {"use_sigmoid": True}, "loss_bbox": distance,
        },
        "roi_head": {
            "type": "StandardRoIHead",
            "bbox_roi_extractor": regions(7), "mask_roi_extractor": regions(14),
            "bbox_head": {
                "type": "Shared2FCBBoxHead", "in_channels": 256, "fc_out_channels": 1024,
                "roi_feat_size": 7, "num_classes": 80, "reg_class_agnostic": False,
                "bbox_coder": coder(0.1, 0.1, 0.2, 0.2),
                "loss_cls": entropy | {"use_sigmoid": False}, "loss_bbox": distance,
            },
            "mask_head": {
                "type": "FCNMaskHead", "num_convs": 4, "in_channels": 256,
                "conv_out_channels": 256, "num_classes": 80,
                "loss_mask": entropy | {"use_mask": True},
            },
        },
        "train_cfg": {
            "rpn": {
                "assigner": assigner(0.7, 0.3, 0.3), "allowed_border": -1, "pos_weight": -1,
                "sampler": sampler | {"add_gt_as_proposals": False},
            },
            "rpn_proposal": proposals,
            "rcnn": {
                "assigner": assigner(0.5, 0.5, 0.5), "mask_size": 28, "pos_weight": -1,
                "sampler": sampler | {"add_gt_as_proposals": True},
            },
        },
        "test_cfg": {
            "rpn": proposals,
            "rcnn": {
                "score_thr": 0.05, "max_per_img": 100, "mask_thr_binary": 0.5,
                "nms": {"type": "nms", "iou_threshold": 0.5},
            },
        },
    }  # fmt: skip


def masks_of(boxes: Tensor) -> Tensor:
    """Return an ellipse in each box, bool ``[n, 224, 320]``."""
    y, x = torch.meshgrid(*(torch.arange(side) + 0.5 for side in PADDED), indexing="ij")
    return torch.stack(
        [
            ((x - (left + right) / 2) / ((right - left) / 2)) ** 2
            + ((y - (top + bottom) / 2) / ((bottom - top) / 2)) ** 2
            <= 1
            for left, top, right, bottom in boxes.tolist()
        ]
    )


def samples(labels: list[Tensor]) -> list[DetDataSample]:
    """Describe both images and their objects as MMDetection does."""
    found = []
    for size, padded, boxes, classes in zip(SIZES, OWN_PADDED, BOXES, labels, strict=True):
        meta = {
            "img_shape": size, "ori_shape": size, "pad_shape": padded,
            "batch_input_shape": PADDED, "scale_factor": (1.0, 1.0),
        }  # fmt: skip
        masks = BitmapMasks(masks_of(boxes).numpy().astype("uint8"), *PADDED)
        sample = DetDataSample(metainfo=meta)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=classes, masks=masks)
        found.append(sample)
    return found


def proposals_of(boxes: list[Tensor]) -> list[InstanceData]:
    """Return proposals as MMDetection's first stage does."""
    return [InstanceData(bboxes=box.clone(), scores=torch.ones(len(box))) for box in boxes]


def unmatched(ours: Any, theirs: Any) -> float:
    """Return the share of detections without one of the same label, score and box."""
    near = torch.cdist(ours.boxes.double(), theirs.bboxes.double(), p=float("inf")) < 0.05
    same = near & (ours.labels[:, None] == theirs.labels)
    same &= (ours.scores[:, None] - theirs.scores).abs() < 1e-3
    return 1 - float(torch.cat((same.any(0), same.any(1))).float().mean())


@torch.no_grad()
def main() -> int:
    """Compare outputs, detections and losses of Tiny; return the exit code."""
    with torch.device("meta"):
        ours: MaskRCNN = create_model("maskrcnn_transnext_tiny")
    fill(ours)
    ours.eval()
    theirs = built(MODELS, "mmdet", config(ours.widths), ours)
    images = two_images(photo(), PADDED)
    backbone = ours.backbone(images)
    maps, their_maps = ours.neck(backbone), theirs.neck(backbone)
    fine = True
    for level, (found, expected) in enumerate(zip(maps, their_maps, strict=True)):
        fine &= report(f"neck, level {level}", difference(found, expected), 1e-5)
    logits, moves = ours.rpn_head(maps)
    for name, found, expected in zip(
        ("logits", "moves"), (logits, moves), theirs.rpn_head(maps), strict=True
    ):
        worst = max(difference(x, y) for x, y in zip(found, expected, strict=True))
        fine &= report(f"first stage, {name}", worst, 1e-5)

    boxes = [x.boxes for x in ours.rpn_head.proposals(logits, moves, SIZES, ProposalSettings())]
    their_boxes = theirs.rpn_head.predict(maps, samples(LABELS), rescale=False)
    for index, (found, expected) in enumerate(zip(boxes, their_boxes, strict=True)):
        distance = torch.cdist(found.double(), expected.bboxes.double(), p=float("inf"))
        lost = 1 - float((distance.amin(1) < 0.01).float().mean())
        fine &= report(f"proposals of image {index}, share unmatched", lost, 0.01)

    expected = theirs.roi_head.predict(maps, proposals_of(boxes), samples(LABELS), rescale=False)
    for index, (found, wanted) in enumerate(zip(ours(images, SIZES), expected, strict=True)):
        lost = unmatched(found, wanted)
        fine &= report(f"detections of image {index}, share unmatched", lost, 0.02)

    ours.rpn_head.sampler = ours.roi_head.sampler = Sampler(EVERYTHING, 1.0)
    losses = ours.rpn_head.loss(logits, moves, OWN_PADDED, BOXES)
    targets = [
        Annotated(size, box, label, masks_of(box))
        for size, box, label in zip(SIZES, BOXES, LABELS, strict=True)
    ]
    losses |= ours.roi_head.loss(maps, boxes, targets)
    nothing = [torch.zeros_like(label) for label in LABELS]  # the first stage has one class
    wanted = theirs.rpn_head.loss(maps, samples(nothing))
    wanted |= theirs.roi_head.loss(maps, proposals_of(boxes), samples(LABELS))
    assert set(losses) == set(wanted), set(losses) ^ set(wanted)
    for name, value in wanted.items():
        value = sum(value) if isinstance(value, list) else value
        fine &= report(name, relative(losses[name], value), 1e-5)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
