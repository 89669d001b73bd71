"""The backbone of a detector or segmentor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from ..layers.derived import freeze
from ..transnext import TransNeXt
from ..variants import architecture_arguments
from .published import DenseModel

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["OnBackbone", "build_backbone"]


def build_backbone(model: DenseModel, **options: Any) -> TransNeXt:
    """Return the backbone of a model, with random weights.

    Parameters
    ----------
    model : DenseModel
        It gives the widths and depths, the image side of training, the rate of stochastic depth and
        which maps are taken. The position bias is interpolated, as published.
    **options
        Any parameter of :class:`TransNeXt` but ``features_only``, over these.
    """
    arguments = architecture_arguments(model.backbone) | {
        "img_size": model.img_size,
        "drop_path_rate": model.drop_path_rate,
        "out_indices": model.method.stages,
    }
    return TransNeXt(**(arguments | options), features_only=True)


class OnBackbone(nn.Module):
    """A model that reads the maps of a TransNeXt.

    Parameters
    ----------
    backbone : TransNeXt
        With ``features_only=True``.
    num_classes : int
        Of the model.
    maps : sequence of int
        Numbers of maps that the model can read.

    Attributes
    ----------
    class_names, class_colours : list of str | None, list of [red, green, blue] | None
        Of the classes, where its weights gave them.

    Raises
    ------
    ValueError
        If the backbone is a classifier or gives other maps, or there is no class.
    """

    def __init__(
        self, backbone: TransNeXt, num_classes: int, *, maps: Sequence[int] = (4,)
    ) -> None:
        super().__init__()
        if not backbone.features_only or len(backbone.feature_info.out_indices) not in maps:
            known = " or ".join({3: "three", 4: "four"}[count] for count in maps)
            raise ValueError(
                f"backbone: got another one, needs features_only=True with {known} maps"
            )
        if num_classes < 1:
            raise ValueError(f"num_classes: got {num_classes}, needs at least 1")
        self.backbone = backbone
        self.num_classes = num_classes
        self.class_names: list[str] | None = None
        self.class_colours: list[list[int]] | None = None

    @property
    def widths(self) -> list[int]:
        """Channels of the backbone's maps."""
        return self.backbone.feature_info.channels()

    def freeze(self) -> Self:
        """Change to evaluation and declare that the weights stay; see :meth:`TransNeXt.freeze`."""
        self.eval()
        freeze(self)
        return self
