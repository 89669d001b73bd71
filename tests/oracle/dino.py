"""Compare DINO with MMDetection's: `python tests/oracle/dino.py`; see CONTRIBUTING.

Near ties among 900 ranks decide which cell becomes which query. With the same ranks, everything of
one image is compared, the gradient of all parameters included; in float64 nothing is tied, and the
losses are compared with ranks of their own. Of two images of different sizes: what comes before the
queries are chosen and, from the same queries, what comes after.
"""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

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
from oracle.ties import SameRanks, float64

stand_in_for_compiled_operators()

import mmdet.models  # noqa: E402, F401
from mmdet.registry import MODELS  # noqa: E402
from mmdet.structures import DetDataSample  # noqa: E402
from mmengine.structures import InstanceData  # noqa: E402

from transnext_models import create_model  # noqa: E402
from transnext_models.detection import DINO, Annotated  # noqa: E402
from transnext_models.detection.dino.decoder import logit  # noqa: E402
from transnext_models.detection.dino.levels import flatten_levels  # noqa: E402

BOXES = torch.tensor([[20.0, 30, 140, 150], [100, 60, 300, 200], [180, 10, 230, 70]])
LABELS = torch.tensor([1, 56, 17])


register_no_backbone(MODELS)


def config(channels: list[int]) -> dict[str, Any]:
    """Return MMDetection's DINO of the published settings."""
    levels = len(channels) + 1
    attention = {"embed_dims": 256, "dropout": 0.0}
    ffn = {"embed_dims": 256, "feedforward_channels": 2048, "ffn_drop": 0.0}
    deformable = attention | {"num_levels": levels}
    costs = [
        {"type": "FocalLossCost", "weight": 2.0},
        {"type": "BBoxL1Cost", "weight": 5.0, "box_format": "xywh"},
        {"type": "IoUCost", "iou_mode": "giou", "weight": 2.0},
    ]
    focal = {"type": "FocalLoss", "use_sigmoid": True, "gamma": 2.0, "alpha": 0.25}
    return {
        "type": "DINO",
        "num_queries": 900,
        "with_box_refine": True,
        "as_two_stage": True,
        "num_feature_levels": levels,
        "data_preprocessor": {"type": "DetDataPreprocessor"},
        "backbone": {"type": "NoBackbone"},
        "neck": {
            "type": "ChannelMapper", "in_channels": channels, "kernel_size": 1,
            "out_channels": 256, "act_cfg": None, "num_outs": levels,
            "norm_cfg": {"type": "GN", "num_groups": 32},
        },
        "encoder": {
            "num_layers": 6, "layer_cfg": {"self_attn_cfg": deformable, "ffn_cfg": ffn},
        },
        "decoder": {
            "num_layers": 6, "return_intermediate": True, "post_norm_cfg": None,
            "layer_cfg": {
                "self_attn_cfg": attention | {"num_heads": 8},
                "cross_attn_cfg": deformable, "ffn_cfg": ffn,
            },
        },
        "positional_encoding": {
            "num_feats": 128, "normalize": True, "offset": 0.0, "temperature": 20,
        },
        "bbox_head": {
            "type": "DINOHead", "num_classes": 80, "sync_cls_avg_factor": True,
            "loss_cls": focal | {"loss_weight": 1.0},
            "loss_bbox": {"type": "L1Loss", "loss_weight": 5.0},
            "loss_iou": {"type": "GIoULoss", "loss_weight": 2.0},
        },
        "dn_cfg": {
            "label_noise_scale": 0.5, "box_noise_scale": 1.0,
            "group_cfg": {"dynamic": True, "num_groups": None, "num_dn_queries": 100},
        },
        "train_cfg": {"assigner": {"type": "HungarianAssigner", "match_costs": costs}},
        "test_cfg": {"max_per_img": 300},
    }  # fmt: skip


def samples_of(sizes: list[tuple[int, int]]) -> list[DetDataSample]:
    """Describe a batch of images as MMDetection does."""
    return [
        DetDataSample(
            metainfo={
                "img_shape": size,
                "ori_shape": size,
                "scale_factor": (1.0, 1.0),
                "batch_input_shape": SIZE,
                "pad_shape": SIZE,
            }
        )
        for size in sizes
    ]


@torch.no_grad()
def compare_one(ours: DINO, theirs: Any, name: str) -> bool:
    """Compare every layer's predictions of one image, and the detections where no rank swaps."""
    samples, maps = samples_of([SIZE]), ours.backbone(photo())
    ranks = SameRanks()
    with ranks:
        inputs = theirs.forward_transformer(theirs.neck(maps), samples)
    classes, boxes = theirs.bbox_head(inputs["hidden_states"], inputs["references"])
    fine = True
    with ranks:
        layers = ours.predict(photo()).layers
    for layer, found in enumerate(layers):
        fine &= report(
            f"{name} classes, layer {layer}", difference(found.classes, classes[layer]), 1e-5
        )
        fine &= report(f"{name} boxes, layer {layer}", difference(found.boxes, boxes[layer]), 1e-5)
    (expected,) = theirs.bbox_head.predict(**inputs, rescale=False, batch_data_samples=samples)
    if ranks.swapped:
        return fine
    (found,) = ours(photo())
    fine &= report(f"{name} scores", difference(found.scores, expected.scores), 1e-5)
    return fine & report(f"{name} detected boxes", difference(found.boxes, expected.bboxes), 1e-5)


@torch.no_grad()
def compare_two(ours: DINO, theirs: Any, name: str) -> bool:
    """Compare the memory of two images of different sizes, and the decoder on the same queries."""
    sizes = [SIZE, SMALL]
    samples, maps = samples_of(sizes), ours.backbone(two_images(photo()))
    encoder, decoder = theirs.pre_transformer(theirs.neck(maps), samples)
    memory = theirs.forward_encoder(**encoder)["memory"]
    levels = flatten_levels(ours.neck(maps), sizes, SIZE, ours.level_embed)
    found = ours.encoder(
        levels.tokens, levels.positions, levels.centres(), levels.shapes, levels.padding
    )
    fine = report(f"{name} memory of two sizes", difference(found, memory), 1e-5)
    shapes, mask = encoder["spatial_shapes"], encoder["feat_mask"]
    queries, _ = theirs.pre_decoder(memory, mask, shapes, batch_data_samples=samples)
    decoder.update(queries)
    hidden = theirs.forward_decoder(**decoder)
    classes, boxes = theirs.bbox_head(hidden["hidden_states"], hidden["references"])
    _, reference = ours._proposals(memory, levels)
    head = ours.bbox_head
    tokens = ours.query_embedding.weight.expand(2, -1, -1)
    states, before = ours.decoder(tokens, reference, memory, levels, list(head.reg_branches))
    for layer in (0, 5):
        logits = head.cls_branches[layer](states[layer])
        refined = (head.reg_branches[layer](states[layer]) + logit(before[layer], 1e-5)).sigmoid()
        fine &= report(
            f"{name} classes, layer {layer}, same queries", difference(logits, classes[layer]), 1e-5
        )
        fine &= report(
            f"{name} boxes, layer {layer}, same queries", difference(refined, boxes[layer]), 1e-5
        )
    return fine


def losses_of(theirs: Any, maps: list[Tensor], objects: int) -> dict[str, Tensor]:
    """Return MMDetection's losses of an image with so many objects."""
    (sample,) = samples = samples_of([SIZE])
    boxes = BOXES[:objects].to(maps[0].dtype)
    sample.gt_instances = InstanceData(bboxes=boxes, labels=LABELS[:objects])
    inputs = theirs.forward_transformer(theirs.neck(maps), samples)
    found: dict[str, Tensor] = theirs.bbox_head.loss(**inputs, batch_data_samples=samples)
    return found


def compare_losses(ours: DINO, theirs: Any, name: str) -> bool:
    """Compare all losses of one image and their gradient, with and without objects.

    With the same random draws, and with the same ranks in float32.
    """
    fine = True
    theirs.train()
    maps = [x.detach() for x in ours.backbone(photo())]
    ours.backbone = Given(maps)
    for objects in (3, 0):
        targets = [Annotated(SIZE, BOXES[:objects], LABELS[:objects])]
        ranks = SameRanks()
        torch.manual_seed(5)
        with ranks:
            expected = losses_of(theirs, maps, objects)
        torch.manual_seed(5)
        with ranks:
            found = ours.loss(photo(), targets)
        fine &= report(f"{name} losses, {objects} objects", worst_of(found, expected), 1e-5)
        fine &= report(f"{name} ranks that swapped", ranks.apart, 1e-5)
        gradients = gradients_of(theirs, expected), gradients_of(ours, found)
        fine &= report(f"{name} gradient", distance_of(*gradients), 1e-4)
    ours.double()
    theirs.double()
    ours.backbone = Given([x.double() for x in maps])
    for objects in (3, 0):
        targets = [Annotated(SIZE, BOXES[:objects].double(), LABELS[:objects])]
        with torch.no_grad(), float64():
            torch.manual_seed(5)
            expected = losses_of(theirs, [x.double() for x in maps], objects)
            torch.manual_seed(5)
            found = ours.loss(photo().double(), targets)
        title = f"{name} losses, {objects} objects, float64"
        fine &= report(title, worst_of(found, expected), 1e-6)
    return fine


class Given(nn.Module):
    """A backbone that returns these maps."""

    def __init__(self, maps: list[Tensor]) -> None:
        super().__init__()
        self.maps = maps

    def forward(self, _: Tensor) -> list[Tensor]:
        return self.maps


def worst_of(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Return the largest relative difference of two sets of losses."""
    assert set(found) == set(expected), set(found) ^ set(expected)
    return max(relative(found[key].detach(), expected[key].detach()) for key in expected)


def gradients_of(model: nn.Module, losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the gradient of the sum of all losses, by name of the parameter."""
    model.zero_grad()
    torch.stack([value.sum() for value in losses.values()]).sum().backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def distance_of(expected: dict[str, Tensor], found: dict[str, Tensor]) -> float:
    """Return the norm of the difference of two gradients over that of the first."""
    assert set(expected) == set(found), set(expected) ^ set(found)
    apart = [(found[name] - value).norm() for name, value in expected.items()]
    whole = [value.norm() for value in expected.values()]
    return float(torch.stack(apart).norm() / torch.stack(whole).norm())


def main() -> int:
    """Compare both settings of Tiny; return the exit code."""
    fine = True
    for name in ("dino_4scale_transnext_tiny", "dino_5scale_transnext_tiny"):
        with torch.device("meta"):
            ours = create_model(name)
        fill(ours)
        ours.eval()
        theirs = built(MODELS, "mmdet", config(ours.widths), ours)
        short = name.removesuffix("_transnext_tiny")
        fine &= compare_one(ours, theirs, short)
        fine &= compare_two(ours, theirs, short)
        fine &= compare_losses(ours, theirs, short)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
