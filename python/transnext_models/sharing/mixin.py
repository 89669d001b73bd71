"""Save, push and load a model, with the names that huggingface_hub's mixin has.

That mixin is not used: importing it takes the tenth of a second that importing PyTorch leaves, its
``config.json`` is not timm's, and its reader takes what does not fit without a word.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..checkpoints import WeightsFile, read_weights, written_atomically
from ..checkpoints.errors import escaped
from ..checkpoints.hub import DEFAULT_FILE
from ..checkpoints.limits import LONGEST_CLASS_NAME
from ..checkpoints.pretrained import build_fitted
from ..checkpoints.upload import upload
from .card import model_card
from .config import CONFIG_FILE, SharedConfig, model_config, nearest_variant
from .source import open_shared

__all__ = ["Shareable"]

CARD_FILE = "README.md"
_Model = TypeVar("_Model", bound="Shareable")
# What the model itself knows, over what it was built with.
_CURRENT = ("img_size", "pretrain_size", "in_chans", "num_classes", "global_pool", "position_bias")


class Shareable(nn.Module):
    """A model that can be saved, pushed and loaded; it keeps the arguments that built it."""

    _built_with: dict[str, Any]
    default_cfg: dict[str, Any]
    pretrained_cfg: dict[str, Any]

    def save_pretrained(
        self,
        folder: str | os.PathLike[str],
        *,
        class_names: Sequence[str] | None = None,
        results: Mapping[str, float | str] | None = None,
    ) -> Path:
        """Write weights, ``config.json`` in timm's format, and a card, if there is none.

        timm (``local-dir:``), transformers and :meth:`from_pretrained` build the model from the
        folder, with the same weights bit for bit. Each file appears whole or not at all.

        Parameters
        ----------
        folder : path
            Made if it is not there.
        class_names : Sequence[str] | None
            One for each class; None are those that the model came with.
        results : Mapping | None
            What was measured of these weights, for the card: value by name.

        Returns
        -------
        Path
            The folder.

        Raises
        ------
        ValueError
            If the model is no longer what its arguments build (adapters, pruned stages), or the
            names are not as many as the classes.
        OSError
            If a file cannot be written.
        """
        target = Path(folder)
        return self._save(target, target.resolve().name, class_names, results)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        class_names: Sequence[str] | None = None,
        results: Mapping[str, float | str] | None = None,
        commit_message: str = "Upload model",
        revision: str | None = None,
        private: bool | None = None,
        create_pr: bool = False,
        token: str | bool | None = None,
    ) -> str:
        """Upload what :meth:`save_pretrained` writes; a card that is there stays.

        Parameters
        ----------
        repo_id : str
            ``owner/name``; made if it is not there.
        class_names, results
            See :meth:`save_pretrained`.
        commit_message, revision, private, create_pr, token
            As in ``huggingface_hub``; the token is by default that of its login or ``HF_TOKEN``.

        Returns
        -------
        str
            Address of the commit.

        Raises
        ------
        ValueError
            As :meth:`save_pretrained`, or for a name that is none of a repository.
        RuntimeError
            If the Hub does not take it; the message says why.
        """
        with TemporaryDirectory(prefix="transnext-") as folder:
            self._save(Path(folder), repo_id, class_names, results)
            return upload(
                Path(folder),
                repo_id,
                keep=CARD_FILE,
                commit_message=commit_message,
                revision=revision,
                private=private,
                create_pr=create_pr,
                token=token,
            )

    @classmethod
    def from_pretrained(
        cls: type[_Model],
        source: str | os.PathLike[str],
        *,
        revision: str | None = None,
        **options: Any,
    ) -> _Model:
        """Build a model as it was shared, with its weights, in evaluation mode.

        Parameters
        ----------
        source : str | path
            A folder, or ``owner/repo`` on the Hub, the published repositories among them.
        revision : str | None
            Branch, tag or commit on the Hub.
        **options
            Parameters of the class over those that were saved. With another ``num_classes`` the
            classifier is a new one.

        Raises
        ------
        ValueError
            If there is none, or configuration and weights do not fit.
        TypeError
            If an option is unknown.
        DownloadError
            If the Hub does not give it.
        """
        known = tuple(inspect.signature(cls.__init__).parameters)
        for option in options:
            if option not in known:
                raise TypeError(
                    f"from_pretrained: got unknown option {option!r}, needs one of "
                    f"{', '.join(known[1:])}"
                )
        shared = open_shared(source, known, revision)
        return cls.of_shared(shared.config, read_weights(shared.weights()), **options)

    @classmethod
    def of_shared(
        cls: type[_Model], config: SharedConfig, weights: WeightsFile, **options: Any
    ) -> _Model:
        """Build a model of a configuration and weights; see :meth:`from_pretrained`."""
        arguments = {**config.arguments, **options}
        model = build_fitted(lambda: cls(**arguments), weights, new_head="num_classes" in options)
        model.default_cfg = model.pretrained_cfg = dict(config.pretrained)
        return model.eval()

    def _save(
        self,
        folder: Path,
        name: str,
        class_names: Sequence[str] | None,
        results: Mapping[str, float | str] | None,
    ) -> Path:
        arguments = self._arguments()
        _check_class_names(class_names, arguments["num_classes"])
        state = self._state_to_share(arguments)
        variant = nearest_variant(arguments, self.pretrained_cfg)
        config = model_config(variant, arguments, self.pretrained_cfg, class_names)
        metadata = {
            "format": "pt",
            "family": "transnext",
            **{name: str(arguments[name]) for name in ("img_size", "pretrain_size", "num_classes")},
            **{name: str(config["pretrained_cfg"][name]) for name in ("crop_mode", "crop_pct")},
        }
        if "label_names" in config:
            metadata["class_names"] = json.dumps(config["label_names"])
        folder.mkdir(parents=True, exist_ok=True)
        with written_atomically(folder / DEFAULT_FILE) as file:
            save_file(state, file, metadata)
        with written_atomically(folder / CONFIG_FILE) as file:
            file.write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", "utf-8")
        if not (folder / CARD_FILE).exists():
            count = sum(value.numel() for value in state.values())
            with written_atomically(folder / CARD_FILE) as file:
                file.write_text(model_card(name, variant, config, count, results), "utf-8")
        return folder

    def _arguments(self) -> dict[str, Any]:
        """Return what builds the model as it is now."""
        return {**self._built_with, **{name: getattr(self, name) for name in _CURRENT}}

    def _state_to_share(self, arguments: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the weights, which must be those that the arguments have.

        Raises
        ------
        ValueError
            If a model of these arguments has others.
        """
        with torch.device("meta"):
            wanted = type(self)(**{**arguments, "backend": None}).state_dict()
        state = self.state_dict()
        for name in {**wanted, **state}:
            if name not in wanted or name not in state or state[name].shape != wanted[name].shape:
                raise ValueError(
                    f"model: its entry {escaped(name, 80)!r} is not as it was built (adapters, "
                    "pruned stages, quantised layers); merge adapters, or save the state dict"
                )
            if state[name].is_meta:
                raise ValueError("model: it is on the meta device, so it has no weights")
        return {name: value.detach().cpu().contiguous() for name, value in state.items()}


def _check_class_names(names: Sequence[str] | None, num_classes: int) -> None:
    if names is None:
        return
    if isinstance(names, str) or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names: needs a sequence of names")
    if len(names) != num_classes:
        raise ValueError(f"class_names: got {len(names)} names, needs {num_classes}")
    if any(len(name) > LONGEST_CLASS_NAME for name in names):
        raise ValueError(f"class_names: needs names of at most {LONGEST_CLASS_NAME} characters")
