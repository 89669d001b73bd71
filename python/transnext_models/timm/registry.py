"""The models as timm builds them: ``timm.create_model("transnext_tiny.in1k", pretrained=True)``.

Importing this module imports timm; :mod:`.hook` does so at the right time. timm resolves the
name, downloads and wraps feature backbones; the weights are read by this package's own reader.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from ..layers.arguments import square_side
from ..sharing import pretrained_config
from ..transnext import TransNeXt
from ..variants import VARIANTS, Checkpoint, Variant, architecture_arguments

__all__: list[str] = []  # timm's register_model adds the entry points


def _config(variant: Variant, checkpoint: Checkpoint) -> dict[str, Any]:
    config = pretrained_config(variant, checkpoint)
    config["custom_load"] = "hf"  # timm downloads and hands the file to TransNeXt.load_pretrained
    if checkpoint.repo is None:
        config["file"] = str(resources.files("transnext_models") / "assets" / checkpoint.file)
    return config


def _entry_point(variant: Variant) -> Callable[..., TransNeXt]:
    def build(
        pretrained: bool = False,
        pretrained_cfg: Any = None,
        pretrained_cfg_overlay: dict[str, Any] | None = None,
        **options: Any,
    ) -> TransNeXt:
        if pretrained_cfg_overlay and pretrained_cfg_overlay.get("file"):
            pretrained_cfg_overlay = {"custom_load": True, **pretrained_cfg_overlay}
        if options.get("features_only"):
            options.setdefault("position_bias", "interpolate")
        # timm's tag of the name comes as a string, a configuration of the caller's as an object
        checkpoint = variant.checkpoint(pretrained_cfg if isinstance(pretrained_cfg, str) else None)
        options.setdefault("img_size", checkpoint.img_size)
        model = build_model_with_cfg(
            TransNeXt,
            variant.name,
            pretrained,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
            **{**architecture_arguments(variant), **options},
        )
        _check_pretrain_size(model, options.get("pretrain_size"))
        return model

    build.__name__ = build.__qualname__ = variant.name
    build.__module__ = __name__
    build.__doc__ = f"{variant.name}, see :class:`transnext_models.TransNeXt`."
    return build


def _check_pretrain_size(model: Any, asked: Any) -> None:
    """Raise ValueError where the weights that were loaded had another size than the caller says."""
    # A features_only model wraps the network.
    loaded = next(module for module in model.modules() if isinstance(module, TransNeXt))
    if asked is not None and square_side("pretrain_size", asked) != loaded.pretrain_size:
        raise ValueError(
            f"pretrain_size: got {asked}, needs {loaded.pretrain_size}, which the weights' "
            "metadata say"
        )


default_cfgs = generate_default_cfgs(
    {
        f"{variant.name}.{checkpoint.tag}": _config(variant, checkpoint)
        for variant in VARIANTS.values()
        for checkpoint in variant.checkpoints
    }
)
for _variant in VARIANTS.values():
    globals()[_variant.name] = register_model(_entry_point(_variant))
