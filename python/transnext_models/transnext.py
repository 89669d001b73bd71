"""TransNeXt, the model.

Source: Shi, "TransNeXt: Robust Foveal Visual Perception for Vision Transformers", CVPR 2024,
arXiv 2311.17132. State dict, numbers and initialisation are those of the published weights.
"""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Sequence
from typing import Any, Literal

import torch
import torch.fx
from torch import Tensor, nn

import transnext_ops as ops
from transnext_ops.backends.registry import check_backend_name
from transnext_ops.grid_constants import shared_in_trace

from .layers import (
    ConvolutionalGLU,
    GlobalAttention,
    PatchEmbed,
    PixelFocusedAttention,
    StageGrids,
    initialise,
)
from .layers.arguments import (
    STAGES,
    check_architecture,
    check_images,
    check_int,
    check_rates,
    one_of,
    square_side,
)
from .layers.derived import DerivesFromWeights, freeze
from .layers.features import FeatureInfo, take_indices
from .layers.fused import features_of
from .layers.grids import stage_grids
from .layers.parameters import NO_WEIGHT_DECAY, depth_patterns
from .layers.plain import plain, plain_linear
from .layers.stage import PARTS, Stage, build_stage
from .layers.stage_calls import FrozenStages, fused_pooled_head, may_be_one_call
from .sharing import Shareable

__all__ = ["TransNeXt"]

torch.fx.wrap("stage_grids")  # one node in a graph of torch.fx, whatever the sizes


class TransNeXt(Shareable, DerivesFromWeights):
    """TransNeXt for classification, or as the backbone of a dense task.

    Any image of at least 32 x 32 works in every mode, and its size may change from call to call.

    Parameters
    ----------
    embed_dims, num_heads, depths, mlp_ratios, sr_ratios : sequence of four
        Width, heads, blocks, hidden ratio and pooling ratio of each stage. A stage with pooling
        ratio 1 uses global attention.
    window_size : int
        Side of the local attention window.
    qkv_bias : bool
        Whether query, key and value projections have a bias.
    img_size : int
        Side of the images of training, for the interpolated bias and length_scaling "training".
    pretrain_size : int
        Side of the images that the position bias was first trained at; it scales its coordinates.
    in_chans, num_classes : int
        Channels of the image and classes; 0 classes give the pooled features.
    global_pool : {"avg", ""}
        Average over the last map, or none (the classifier then acts on each position).
    fixed_pool_size : int | None
        Linear inference mode: side of the pooled grid, 7 as published. None pools by ``sr_ratios``.
    position_bias : {"extrapolate", "interpolate"} | None
        Compute the position bias for the grid in use, or resize that of the training grid. None is
        "interpolate" for a backbone, "extrapolate" otherwise, as published.
    length_scaling : {"image", "training"}
        Scale attention's logits by the logarithm of the number of keys in the image, as published,
        or by that of the training size.
    attention : {"aggregated", "pixel_focused"}
        The published attention, or the paper's earlier form for ablations.
    features_only : bool
        Return a list of normalised maps instead of logits; the model then has no head.
    out_indices : int | sequence of int | None
        Which of the four maps; an int takes the last so many, None all. Stages after the last
        one taken are not built.
    drop_rate, proj_drop_rate, attn_drop_rate, drop_path_rate : float
        Dropout of the classifier's input, of the projections and of the attention weights (training
        then materialises them); stochastic depth of the last block, rising linearly from 0.
    backend : str | None
        Operator backend, None for the one in force at the call (:func:`transnext_ops.set_backend`).
    """

    def __init__(
        self,
        *,
        embed_dims: Sequence[int],
        num_heads: Sequence[int],
        depths: Sequence[int],
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        sr_ratios: Sequence[int] = (8, 4, 2, 1),
        window_size: int = 3,
        qkv_bias: bool = True,
        img_size: int | Sequence[int] = 224,
        pretrain_size: int | Sequence[int] = 224,
        in_chans: int = 3,
        num_classes: int = 1000,
        global_pool: Literal["avg", ""] = "avg",
        fixed_pool_size: int | None = None,
        position_bias: Literal["extrapolate", "interpolate"] | None = None,
        length_scaling: Literal["image", "training"] = "image",
        attention: Literal["aggregated", "pixel_focused"] = "aggregated",
        features_only: bool = False,
        out_indices: int | Sequence[int] | None = None,
        drop_rate: float = 0.0,
        proj_drop_rate: float = 0.0,
        attn_drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        backend: str | None = None,
    ) -> None:
        super().__init__()
        self._built_with = {k: v for k, v in locals().items() if k not in ("self", "__class__")}
        check_architecture(embed_dims, num_heads, depths, sr_ratios, mlp_ratios)
        check_int(1, in_chans=in_chans, window_size=window_size, fixed_pool_size=fixed_pool_size)
        check_rates(
            drop_rate=drop_rate,
            proj_drop_rate=proj_drop_rate,
            attn_drop_rate=attn_drop_rate,
            drop_path_rate=drop_path_rate,
        )
        if out_indices is not None and not features_only:
            raise ValueError(f"out_indices: got {out_indices!r}, needs features_only=True")
        if position_bias is None:
            position_bias = "interpolate" if features_only else "extrapolate"

        self.img_size = square_side("img_size", img_size)
        self.pretrain_size = square_side("pretrain_size", pretrain_size)
        self.in_chans = in_chans
        self.fixed_pool_size = fixed_pool_size
        self.position_bias = one_of("position_bias", position_bias, ("extrapolate", "interpolate"))
        self.sr_ratios = tuple(sr_ratios)
        self.features_only = features_only
        self.grad_checkpointing = False
        self.default_cfg = self.pretrained_cfg = {}

        taken = take_indices(STAGES, out_indices, "out_indices")
        self.num_stages = max(taken) + 1
        self.feature_info = FeatureInfo.of_stages(embed_dims[: self.num_stages], taken)

        one_of("attention", attention, ("aggregated", "pixel_focused"))
        total = sum(depths)
        rates = iter(drop_path_rate * i / max(total - 1, 1) for i in range(total))
        for i in range(self.num_stages):
            modules = build_stage(
                embed_dims[i - 1] if i else in_chans,
                embed_dims[i],
                stride=2 if i else 4,
                attention="global" if sr_ratios[i] == 1 else attention,
                num_heads=num_heads[i],
                window_size=window_size,
                qkv_bias=qkv_bias,
                attn_drop=attn_drop_rate,
                hidden=int(embed_dims[i] * mlp_ratios[i]),
                proj_drop=proj_drop_rate,
                drop_path_rates=list(itertools.islice(rates, depths[i])),
            )
            for part, module in zip(PARTS, modules, strict=True):
                self.add_module(f"{part}{i + 1}", module)

        self.num_features = self.head_hidden_size = embed_dims[self.num_stages - 1]
        self.head_drop = nn.Dropout(drop_rate)
        self.head: nn.Module = nn.Identity()
        self.apply(initialise)
        self.reset_classifier(0 if features_only else num_classes, global_pool)
        self.set_backend(backend)
        self.length_scaling = one_of("length_scaling", length_scaling, ("image", "training"))
        if length_scaling == "training":
            for i, stage in enumerate(self.stages()):
                side = -(-self.img_size // (4 * 2**i))
                stage.keep_length_of(self.stage_grids(i, (side, side)))

    def set_backend(self, name: str | None) -> None:
        """Choose the operator backend of this model, None for the one in force at each call.

        Raises
        ------
        ValueError, transnext_ops.BackendError
            If there is no such backend, or it cannot run in this process.
        """
        if name is not None:
            with ops.use_backend(check_backend_name(name)):  # checks that it can run here
                pass
        self.backend = name
        with_backend = ConvolutionalGLU | PixelFocusedAttention | GlobalAttention | PatchEmbed
        for module in self.modules():
            if isinstance(module, with_backend):
                module.backend = name

    def freeze(self, frozen: bool = True) -> TransNeXt:
        """Declare that the weights stay as they are, and change to evaluation mode.

        In evaluation the model caches what it derives from its weights (packed weights,
        position-bias tables). On a CPU every call checks that they are unchanged, which takes as
        long as reading them from memory; other devices cache nothing. A frozen model caches
        everywhere and checks nothing.

        :meth:`train`, loading weights, an edit that PyTorch's version counters show and
        ``freeze(False)`` end it. Other edits, through ``parameter.data`` say, go unnoticed until
        then: outputs are those of the old weights.

        Parameters
        ----------
        frozen : bool
            False takes it back; the mode stays.

        Returns
        -------
        TransNeXt
            The model itself.
        """
        if frozen:
            self.eval()
        freeze(self, frozen)
        return self

    def stages(self) -> list[Stage]:
        """Return the stages in order."""
        return [
            Stage(*(getattr(self, f"{part}{i + 1}") for part in PARTS))
            for i in range(self.num_stages)
        ]

    # Sizes

    def stage_grids(self, stage: int, grid: tuple[int, int]) -> StageGrids:
        """Return all grids of stage ``stage`` (from 0) when its tokens lie on ``grid``."""
        stride = 4 * 2**stage
        interpolates = self.position_bias == "interpolate"
        return stage_grids(
            grid,
            pool_ratio=self.sr_ratios[stage],
            pool_size=self.fixed_pool_size,
            pretrain_side=self.pretrain_size // stride,
            train_side=self.img_size // stride if interpolates else None,
        )

    # Forward

    def _maps(self, x: Tensor, wanted: Sequence[int]) -> list[Tensor]:
        """Return the normalised maps ``[B, C, H, W]`` of some stages, by their indices in order."""
        check_images(x, self.in_chans)
        if may_be_one_call(self.derived, x):
            in_one_call = self._frozen().maps(x, wanted)
            if in_one_call is not None:
                return in_one_call
        maps = []
        with shared_in_trace():
            for index, stage in enumerate(self.stages()[: max(wanted) + 1]):
                find_grids = functools.partial(self.stage_grids, index)
                x = stage.normalised_map(x, find_grids, checkpointed=self.grad_checkpointing)
                maps.append(x)
        return [maps[index] for index in wanted]

    def _frozen(self) -> FrozenStages:
        find_grids = [functools.partial(self.stage_grids, i) for i in range(self.num_stages)]
        return FrozenStages(self.stages(), find_grids, self.derived, self.head)

    def _logits_in_one_call(self, x: Tensor) -> Tensor | None:
        """Return the logits of a frozen model; None where they take more calls than one."""
        # A head that has to be called needs no look at all modules, which its map takes anyway.
        if not may_be_one_call(self.derived, x) or not plain_linear(self.head):
            return None
        own = ("forward_features", "forward_head")
        if any(getattr(type(self), name) is not getattr(TransNeXt, name) for name in own):
            return None
        if not self._takes_means_alone() or not self.__dict__.keys().isdisjoint(own):
            return None
        check_images(x, self.in_chans)
        return self._frozen().logits(x)

    def _takes_means_alone(self) -> bool:
        """Whether the head is given means of the map, with nothing dropped or attached between."""
        drop = self.head_drop
        return (
            self.global_pool == "avg"
            and plain(drop, nn.Dropout)
            and not (drop.training and drop.p > 0)
        )

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last normalised map ``[B, C, H, W]`` of images ``x [B, in_chans, H, W]``."""
        return self._maps(x, [self.num_stages - 1])[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Pool and classify the map that :meth:`forward_features` gives.

        Returns
        -------
        Tensor
            Logits ``[B, num_classes]``, or features ``[B, C]`` with ``pre_logits`` or without
            classes. Without pooling both keep their ``[H, W]``.
        """
        if not pre_logits and features_of(x) is not None and self._takes_means_alone():
            logits = fused_pooled_head(self.stages()[-1].embed, self.head, x)
            if logits is not None:
                return logits
        if self.global_pool == "avg":
            x = self.head_drop(x.mean(dim=(2, 3)))
            return x if pre_logits else self.head(x)
        x = self.head_drop(x)
        if pre_logits or self.num_classes == 0:
            return x
        return self.head(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the last map and those of chosen stages.

        Parameters
        ----------
        x : Tensor
            Images ``[B, in_chans, H, W]``.
        indices : int | Sequence[int] | None
            Stages to take: None all, an int the last so many, a sequence those.
        norm : bool
            Accepted for timm; the maps are always normalised, the norm being part of the stage.
        stop_early : bool
            Stop after the last stage taken.
        output_fmt : {"NCHW", "NLC"}
            Maps, or tokens ``[B, H * W, C]``.
        intermediates_only : bool
            Return the list alone.

        Returns
        -------
        list of Tensor, or a tuple of the last map ``[B, C, H, W]`` and that list.
        """
        one_of("output_fmt", output_fmt, ("NCHW", "NLC"))
        taken = sorted(set(take_indices(self.num_stages, indices, "indices")))
        last = taken[-1] if stop_early else self.num_stages - 1
        maps = self._maps(x, taken if last in taken else [*taken, last])
        chosen = maps[: len(taken)]
        if output_fmt == "NLC":
            chosen = [chosen_map.flatten(2).transpose(1, 2) for chosen_map in chosen]
        return chosen if intermediates_only else (maps[-1], chosen)

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Return logits ``[B, num_classes]``, or the list of maps of a backbone, of images ``x``.

        Raises
        ------
        ValueError, TypeError
            If ``x`` is not floating-point ``[B, in_chans, H, W]`` with sides of at least 32.
        """
        if self.features_only:
            return self._maps(x, self.feature_info.out_indices)
        logits = self._logits_in_one_call(x)
        return self.forward_head(self.forward_features(x)) if logits is None else logits

    # timm's model interface

    def load_pretrained(self, path: str | os.PathLike[str]) -> None:
        """Load a weights file, fitting it to this model; see :func:`pretrained.load_file`."""
        from .checkpoints.pretrained import load_file

        load_file(self, path)

    def get_classifier(self) -> nn.Module:
        """Return the classifier, an Identity if there is none."""
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier by a new one of ``num_classes``, none for 0."""
        check_int(0, num_classes=num_classes)
        if global_pool is not None:
            self.global_pool = one_of("global_pool", global_pool, ("avg", ""))
        self.num_classes = num_classes
        like = self.get_parameter("norm1.weight")
        self.head = (
            nn.Linear(self.num_features, num_classes, device=like.device, dtype=like.dtype)
            if num_classes
            else nn.Identity()
        )
        self.head.apply(initialise)
        self.head.train(self.training)

    def prune_intermediate_layers(
        self,
        indices: int | Sequence[int] = 1,
        prune_norm: bool = False,
        prune_head: bool = True,
    ) -> list[int]:
        """Drop the stages after the last one of ``indices``, and the head with them.

        ``prune_norm`` is accepted for timm; each norm is part of its stage.
        """
        taken = take_indices(self.num_stages, indices, "indices")
        last = max(taken)
        shortened = last + 1 < self.num_stages
        for stage in range(last + 1, self.num_stages):
            for part in PARTS:
                delattr(self, f"{part}{stage + 1}")
        del self.feature_info[last + 1 :]
        self.feature_info.out_indices = tuple(range(last + 1))
        self.num_stages = last + 1
        self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or shortened:
            self.reset_classifier(0, "")
        return list(taken)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Keep only block inputs for the backward pass, which recomputes each block."""
        self.grad_checkpointing = enable

    def no_weight_decay(self) -> set[str]:
        """Return the parameters that the published recipe leaves without weight decay."""
        names = (name for name, _ in self.named_parameters())
        return {name for name in names if any(keyword in name for keyword in NO_WEIGHT_DECAY)}

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return patterns that order parameters by depth, for layer-wise learning rates."""
        return depth_patterns(coarse)
