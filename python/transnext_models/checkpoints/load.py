"""Load a file's weights into a model; all are compared first, so no model is ever half loaded."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass

import torch
from torch import nn

from .architecture import infer_architecture
from .errors import escaped, file_error, quoted
from .names import of_backbone
from .read import WeightsFile, count_not_finite, read_weights

_SHOWN = 3
_LONGEST_SHOWN = 200


@dataclass(frozen=True, slots=True)
class LoadReport:
    """What `load_checkpoint` did.

    Attributes
    ----------
    loaded : int
        Number of parameters copied.
    kept : tuple[str, ...]
        The model's parameters that the file does not give: they are as they were.
    unused : tuple[str, ...]
        The file's entries that the model does not have.
    key : str
        Where in the file the weights were, keys joined by dots; "" for the file itself.
    """

    loaded: int
    kept: tuple[str, ...]
    unused: tuple[str, ...]
    key: str = ""


def load_checkpoint(
    model: nn.Module,
    path: str | os.PathLike[str] | WeightsFile,
    *,
    key: str | None = None,
    strict: bool = True,
    reset_head: bool = False,
) -> LoadReport:
    """Copy the weights in a file into `model`.

    A backbone takes a classifier's weights and leaves out the head and the stages it has not.

    Parameters
    ----------
    model : nn.Module
        A `TransNeXt`, or any module with (some of) its parameter names.
    path : str | os.PathLike[str] | WeightsFile
        A ``.pth`` or safetensors file, or what `read_weights` returned for one.
    key : str | None
        Which of several state dicts in the file, see `read_weights`.
    strict : bool
        Whether every parameter must be given and every entry used. Otherwise also entries that are
        no weights (counters, index buffers) are left out, unless the model has them.
        Shapes must agree in any case.
    reset_head : bool
        Leave the model's ``head`` as it is initialised, whatever the file has: to fine-tune on
        other classes.

    Returns
    -------
    LoadReport

    Raises
    ------
    CheckpointError
        If the file cannot be used or does not fit; `model` is then unchanged.
    """
    if isinstance(path, WeightsFile):
        if key is not None:
            raise ValueError(f"key: got {key!r}, but the file has been read already")
        weights = path
    else:
        weights = read_weights(path, key=key, strict=strict)
    # A module may keep other things than tensors in its state (`get_extra_state`).
    wanted = {n: t for n, t in model.state_dict().items() if isinstance(t, torch.Tensor)}
    if any(tensor.is_meta for tensor in wanted.values()):
        raise ValueError("model: it is on the meta device; call model.to_empty(device=...) first")
    fitting = check_fit(wanted, weights, strict=strict, reset_head=reset_head)
    for name, tensor in fitting.items():
        dtype = wanted[name].dtype
        if dtype != tensor.dtype and count_not_finite(tensor, dtype):
            raise file_error(
                weights.path, f"its entry {quoted(name)} has values too large for {dtype}"
            )
    # Each is converted where it goes: all at once would take the model's memory once more.
    model.load_state_dict(fitting, strict=False)
    kept = tuple(name for name in wanted if name not in fitting)
    unused = tuple(name for name in weights.state_dict if name not in fitting)
    return LoadReport(len(fitting), kept, (*unused, *weights.not_weights), weights.key)


def check_fit(
    wanted: Mapping[str, torch.Tensor],
    weights: WeightsFile,
    *,
    strict: bool = True,
    reset_head: bool = False,
) -> dict[str, torch.Tensor]:
    """Return the weights that go into a model whose state dict is `wanted`.

    Only names and shapes of `wanted` are looked at, so a model on the ``meta`` device will do: what
    does not fit is refused before a model is built for it.

    Raises
    ------
    CheckpointError
        If the file does not fit.
    """
    given = weights.state_dict
    unused = [*(name for name in given if name not in wanted), *weights.not_weights]
    missing = [name for name in wanted if name not in given]
    fitting = {name: tensor for name, tensor in given.items() if name in wanted}
    if reset_head:
        missing = [name for name in missing if not _is_head(name)]
        fitting = {name: tensor for name, tensor in fitting.items() if not _is_head(name)}
    for name in missing:
        # A counter of the model's own stays as it is; a weight must not without a word.
        if name in weights.not_weights and wanted[name].is_floating_point():
            reason = weights.not_weights[name]
            raise file_error(weights.path, f"its entry {quoted(name)} {reason}")
    for name in fitting:
        if not wanted[name].is_floating_point():
            kind = str(wanted[name].dtype).removeprefix("torch.")
            raise file_error(
                weights.path, f"its entry {quoted(name)} is a weight, the model's is {kind}"
            )
    shapes = [name for name in fitting if fitting[name].shape != wanted[name].shape]
    parts = {name.partition(".")[0] for name in wanted}
    unplaced = [name for name in unused if not _belongs_to_bigger_model(name, parts)]
    if shapes or (strict and (missing or unplaced)):
        reason = _mismatch(weights, wanted, missing, unplaced, shapes)
        raise file_error(weights.path, reason)
    if not fitting:
        raise file_error(weights.path, "none of its entries is a parameter of the model")
    return fitting


def _is_head(name: str) -> bool:
    return name.startswith("head.")


def _belongs_to_bigger_model(name: str, parts: Set[str]) -> bool:
    """Whether a dense backbone rightly lacks this entry: of the head, or of a stage it has not.

    `parts` are the first parts of the names that the model has.
    """
    part = name.partition(".")[0]
    is_of_family = part == "head" or part.rstrip("1234") in ("patch_embed", "block", "norm")
    return is_of_family and part not in parts


def _mismatch(
    weights: WeightsFile,
    wanted: Mapping[str, torch.Tensor],
    missing: Sequence[str],
    unplaced: Sequence[str],
    shapes: Sequence[str],
) -> str:
    """Say how the file and the model differ, and what to do about it where that is known."""
    given = weights.state_dict
    model, file = infer_architecture(of_backbone(wanted)), weights.architecture
    problems = [*missing, *unplaced, *shapes]
    if file is None:
        head = "its entries are not those of a TransNeXt classifier or backbone"
    elif all(map(_is_head, problems)):
        return _head_mismatch(wanted, given)
    elif file == model:
        head = f"by widths and depths both are {file}"
    else:
        head = f"its shapes are those of {file}, but the model is {model or 'none of the family'}"
    parts = [
        _listed("missing", missing),
        _listed("not in the model", unplaced),
        _listed(
            "of another shape",
            [f"{n}: file {list(given[n].shape)}, model {list(wanted[n].shape)}" for n in shapes],
        ),
    ]
    return f"does not fit the model: {head}; " + "; ".join(part for part in parts if part)


def _head_mismatch(wanted: Mapping[str, torch.Tensor], given: Mapping[str, torch.Tensor]) -> str:
    has = len(given["head.weight"]) if "head.weight" in given else None
    needs = len(wanted["head.weight"]) if "head.weight" in wanted else None
    if has is None:
        return (
            f"it has no classification head, and the model has one for {needs} classes; "
            "build the model with num_classes=0, or keep a fresh head with reset_head=True"
        )
    return (
        f"its classification head is for {has} classes, the model's for {needs}; "
        f"build the model with num_classes={has}, or keep a fresh head with reset_head=True"
    )


def _listed(title: str, items: Sequence[str]) -> str:
    if not items:
        return ""
    shown = ", ".join(escaped(item, _LONGEST_SHOWN) for item in items[:_SHOWN])
    more = f", and {len(items) - _SHOWN} more" if len(items) > _SHOWN else ""
    return f"{len(items)} {title} ({shown}{more})"
