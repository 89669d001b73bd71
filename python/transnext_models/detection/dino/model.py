"""DINO on a TransNeXt backbone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import box_convert

from ...dense.backbone import OnBackbone
from ...dense.batches import check_sizes
from ...dense.deformable_attention import DeformableAttention
from ...dense.transformer_layers import DeformableEncoder
from ...transnext import TransNeXt
from ..box_deltas import rescale_boxes
from ..records import Annotated, Detections
from .decoder import Decoder, logit
from .denoising import DenoisingQueries, Noised
from .levels import Levels, flatten_levels
from .losses import Prediction, denoising_losses, matching_losses
from .neck import ChannelMapper

__all__ = ["DINO", "Answers"]

_DEPTH = 6
_FIRST_PROBABILITY = 0.01  # of every class before training
_MOST = 300  # detections of an image


class Answers(NamedTuple):
    """All predictions of a batch.

    Attributes
    ----------
    layers : list of Prediction
        Of the queries after each layer of the decoder.
    proposals : Prediction
        Of the cells that became queries.
    denoising : list of Prediction
        Of the denoising queries after each layer; empty in evaluation.
    noised : Noised or None
        Those queries.
    """

    layers: list[Prediction]
    proposals: Prediction
    denoising: list[Prediction]
    noised: Noised | None


class _BoxHead(nn.Module):
    """Classifier and box regressor of every layer; the last ones are those of the proposals."""

    def __init__(self, num_classes: int, width: int) -> None:
        super().__init__()
        self.cls_branches = nn.ModuleList(nn.Linear(width, num_classes) for _ in range(_DEPTH + 1))
        self.reg_branches = nn.ModuleList(
            nn.Sequential(
                nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(),
                nn.Linear(width, 4),
            )
            for _ in range(_DEPTH + 1)
        )  # fmt: skip
        for classifier in self.cls_branches:
            bias = math.log(_FIRST_PROBABILITY / (1 - _FIRST_PROBABILITY))
            nn.init.constant_(classifier.get_parameter("bias"), bias)
        for regressor in self.reg_branches:
            for name in ("weight", "bias"):
                nn.init.zeros_(regressor.get_parameter(f"4.{name}"))


class DINO(OnBackbone):
    """DINO (Zhang et al., ICLR 2023, arXiv 2203.03605) on TransNeXt.

    With denoising queries, mixed query selection and boxes that look forward twice. Takes
    normalised RGB images ``[B, 3, H, W]``, those of smaller ones padded with zeros at right and
    bottom. State dicts have the names of the published checkpoints.

    Parameters
    ----------
    backbone : TransNeXt
        With ``features_only=True``: three maps (strides 8, 16, 32) for 4 levels, or all four for 5.
    num_classes, num_queries : int
        Classes, and queries of an image.
    channels, hidden : int
        Width of queries and cells, a multiple of 32, and inside the FFNs.
    """

    def __init__(
        self,
        backbone: TransNeXt,
        num_classes: int = 80,
        num_queries: int = 900,
        *,
        channels: int = 256,
        hidden: int = 2048,
    ) -> None:
        super().__init__(backbone, num_classes, maps=(3, 4))
        levels = len(self.widths) + 1
        self.neck = ChannelMapper(self.widths, channels)
        self.encoder = DeformableEncoder(
            _DEPTH, embed_dim=channels, hidden_dim=hidden, num_levels=levels
        )
        self.decoder = Decoder(_DEPTH, embed_dim=channels, hidden_dim=hidden, num_levels=levels)
        self.bbox_head = _BoxHead(num_classes, channels)
        self.query_embedding = nn.Embedding(num_queries, channels)
        self.level_embed = nn.Parameter(torch.empty(levels, channels))
        self.memory_trans_fc = nn.Linear(channels, channels)
        self.memory_trans_norm = nn.LayerNorm(channels)
        self.dn_query_generator = DenoisingQueries(num_classes, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialise all but backbone, neck and branches as published."""
        for part in (self.encoder, self.decoder):
            for parameter in part.parameters():
                if parameter.dim() > 1:
                    nn.init.xavier_uniform_(parameter)
            for module in part.modules():
                if isinstance(module, DeformableAttention):
                    module.reset_parameters()
        nn.init.xavier_uniform_(self.memory_trans_fc.weight)
        nn.init.normal_(self.level_embed)
        nn.init.normal_(self.query_embedding.weight)

    def predict(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        targets: Sequence[Annotated] | None = None,
    ) -> Answers:
        """Return all predictions of a batch.

        Parameters
        ----------
        images : Tensor [B, 3, H, W]
        sizes : sequence of (int, int), optional
            Height and width of each image without padding; that of the batch unless given.
        targets : sequence of Annotated, optional
            Makes denoising queries.
        """
        sizes = check_sizes(images, sizes)
        padded = (images.shape[2], images.shape[3])
        maps = self.neck(self.backbone(images))
        levels = flatten_levels(maps, sizes, padded, self.level_embed)
        memory = self.encoder(
            levels.tokens, levels.positions, levels.centres(), levels.shapes, levels.padding
        )
        proposals, reference = self._proposals(memory, levels)
        count = reference.shape[1]
        queries = self.query_embedding.weight[:count].expand(len(images), -1, -1)
        noised = None if targets is None else self.dn_query_generator(targets)
        mask, first = None, 0
        if noised is not None:
            first = noised.size
            queries = torch.cat((noised.queries.to(queries.dtype), queries), 1)
            reference = torch.cat((noised.boxes.sigmoid(), reference), 1)
            mask = noised.mask(count)
        head = self.bbox_head
        found, boxes = self.decoder(
            queries, reference, memory, levels, list(head.reg_branches), mask
        )
        layers, denoising = [], []
        for classify, regress, x, box in zip(
            head.cls_branches, head.reg_branches, found, boxes, strict=False
        ):
            logits = classify(x)
            refined = (regress(x).float() + logit(box, 1e-5)).sigmoid()
            layers.append(Prediction(logits[:, first:], refined[:, first:]))
            if noised is not None:
                denoising.append(Prediction(logits[:, :first], refined[:, :first]))
        return Answers(layers, proposals, denoising, noised)

    def _proposals(self, memory: Tensor, levels: Levels) -> tuple[Prediction, Tensor]:
        """Return the best cells' predictions, and their boxes without gradient."""
        logits, counts = levels.proposals()
        x = memory.masked_fill(~counts[..., None], 0.0)
        x = self.memory_trans_norm(self.memory_trans_fc(x))
        classes = self.bbox_head.cls_branches[-1](x)
        boxes = self.bbox_head.reg_branches[-1](x).float() + logits
        count = min(self.query_embedding.num_embeddings, classes.shape[1])
        best = classes.max(-1).values.topk(count, dim=1).indices[..., None]
        chosen = Prediction(
            classes.gather(1, best.expand(-1, -1, classes.shape[-1])),
            boxes.gather(1, best.expand(-1, -1, 4)).sigmoid(),
        )
        return chosen, chosen.boxes.detach()

    def forward(
        self,
        images: Tensor,
        sizes: Sequence[tuple[int, int]] | None = None,
        original_sizes: Sequence[tuple[int, int]] | None = None,
    ) -> list[Detections]:
        """Return the 300 most certain pairs of box and class of each image.

        A query may answer more than one class.

        Parameters
        ----------
        images : Tensor
            ``[B, 3, H, W]``.
        sizes : sequence of (int, int), optional
            Height and width of each image without padding; those of the batch unless given.
        original_sizes : sequence of (int, int), optional
            Height and width before an image was resized, whose pixels the results are in; ``sizes``
            unless given.
        """
        sizes = check_sizes(images, sizes)
        originals = check_sizes(images, original_sizes, inside=False) if original_sizes else sizes
        last = self.predict(images, sizes).layers[-1]
        results = []
        for classes, boxes, size, original in zip(*last, sizes, originals, strict=True):
            scores = classes.float().sigmoid().flatten()
            best = scores.topk(min(_MOST, len(scores)))
            sides = boxes.new_tensor((size[1], size[0]) * 2)
            edges = box_convert(boxes[best.indices // self.num_classes], "cxcywh", "xyxy") * sides
            edges = torch.minimum(edges.clamp(min=0), sides)
            edges = rescale_boxes(edges, size, original)
            results.append(Detections(edges, best.values, best.indices % self.num_classes))
        return results

    def loss(self, images: Tensor, targets: Sequence[Annotated]) -> dict[str, Tensor]:
        """Return the losses of a batch by the published names, weighted; their sum is the total.

        Those of the last layer are ``loss_cls``, ``loss_bbox`` and ``loss_iou``, those of earlier
        ones ``d0.loss_cls`` and so on, of denoising queries ``dn_loss_cls`` and ``d0.dn_loss_cls``,
        of the proposals ``enc_loss_cls``.
        """
        if len(targets) != len(images):
            raise ValueError(
                f"targets: got {len(targets)}, needs one for each of {len(images)} images"
            )
        answers = self.predict(images, [target.size for target in targets], targets)
        losses = {
            f"enc_{name}": value
            for name, value in matching_losses(answers.proposals, targets).items()
        }
        for layer, prediction in enumerate(answers.layers):
            prefix = "" if layer == len(answers.layers) - 1 else f"d{layer}."
            for name, value in matching_losses(prediction, targets).items():
                losses[f"{prefix}{name}"] = value
            if answers.noised is not None:
                noised = denoising_losses(answers.denoising[layer], answers.noised, targets)
                for name, value in noised.items():
                    losses[f"{prefix}dn_{name}"] = value
        return losses
