"""TransNeXt as a backbone of OpenMMLab's detectors and segmentors.

Importing this module registers ``TransNeXt`` and the published backbones ``transnext_tiny``,
``transnext_small`` and ``transnext_base`` in MMEngine's registry of models, where MMDetection's and
MMSegmentation's look as well. A configuration asks for it by
``custom_imports = dict(imports=["transnext_models.openmmlab"])``.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

from transnext_ops.distribution import install_hint

from .checkpoints import read_weights
from .checkpoints.hub import resolve_weights
from .checkpoints.pretrained import load_fitted
from .transnext import TransNeXt
from .variants import VARIANTS, architecture_arguments

try:
    from mmengine.registry import MODELS
except ImportError as error:
    raise ImportError(
        f"transnext_models.openmmlab needs MMEngine: {install_hint('openmmlab')}"
    ) from error

__all__ = ["TransNeXtBackbone"]

RESNET_KEYS = frozenset(
    ("depth", "frozen_stages", "init_cfg", "norm_cfg", "norm_eval", "out_indices", "style")
)
"""What configurations inherit from those of a ResNet; the published backbone ignores it, too."""


class TransNeXtBackbone(TransNeXt):
    """A TransNeXt that gives its maps, with the arguments of the published configurations.

    Parameters
    ----------
    pretrained : str | path | None
        Weights of a classifier or backbone that :meth:`init_weights` loads: a file, the name of a
        published model, or ``owner/repo:file`` on the Hugging Face Hub.
    stages : sequence of int | None
        Numbers of the maps, from 0; None gives all four. DINO of four scales takes ``(1, 2, 3)``.
    **options
        Parameters of :class:`TransNeXt` but ``features_only`` and ``out_indices``, and
        ``RESNET_KEYS``, which change nothing: ``init_cfg`` downloads no ResNet, ``frozen_stages``
        freezes no stage, and ``out_indices`` is that of the ResNet.

    Raises
    ------
    TypeError
        If an option is unknown.
    """

    def __init__(
        self,
        *,
        pretrained: str | os.PathLike[str] | None = None,
        stages: Sequence[int] | None = None,
        **options: Any,
    ) -> None:
        known = set(inspect.signature(TransNeXt).parameters) - {"features_only", "out_indices"}
        for key in options:
            if key not in known | RESNET_KEYS:
                needs = ", ".join(sorted(known | {"pretrained", "stages"}))
                raise TypeError(f"TransNeXt: got unknown option {key!r}, needs one of {needs}")
        own = {key: value for key, value in options.items() if key not in RESNET_KEYS}
        super().__init__(**own, features_only=True, out_indices=stages)
        self.pretrained = pretrained

    def init_weights(self) -> None:
        """Load ``pretrained``, which MMEngine asks for before training; nothing without it."""
        if self.pretrained is not None:
            load_fitted(self, read_weights(resolve_weights(self.pretrained)))


def _of_size(name: str) -> type[TransNeXtBackbone]:
    """Return the class of a published size, whose architecture the configuration need not say."""
    arguments = architecture_arguments(VARIANTS[name])

    def __init__(self: TransNeXtBackbone, **options: Any) -> None:
        TransNeXtBackbone.__init__(self, **(arguments | options))

    doc = f"``{name}``: :class:`TransNeXtBackbone` of that architecture."
    return type(name, (TransNeXtBackbone,), {"__init__": __init__, "__doc__": doc})


MODELS.register_module(name="TransNeXt", module=TransNeXtBackbone)
for _name in ("transnext_tiny", "transnext_small", "transnext_base"):
    MODELS.register_module(name=_name, module=_of_size(_name))
