"""What has to be run: every set checked by name, before any image is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath

from ..training.sources.imagenet import validation_number
from . import image_sets
from .class_lists import indices_of_a, indices_of_r, real_labels
from .corruptions import list_corruptions
from .generated import check_installed
from .image_sets import IMAGENET, IMAGENET_A, IMAGENET_R, V2, ImageSet
from .listing import Listing, images_below, list_set
from .models import EvaluatedModel
from .options import EvaluationOptions
from .passes import Pass, View
from .trees import Tree, open_tree
from .validation import open_validation

__all__ = ["GENERATED", "Plan", "make_plan"]

GENERATED = "imagenet-c-generated"
_SHOWN = 20


@dataclass
class Plan:
    """The passes of an evaluation, and what is not as it should be."""

    passes: list[Pass] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)

    def take(self, listing: Listing, option: str, tree: Tree) -> bool:
        """Note a listing's faults; whether there is something to run."""
        faults = [f"{option}: {tree.name}: {fault}" for fault in listing.faults]
        (self.unusable if listing.is_unusable else self.faults).extend(faults)
        return not listing.is_unusable


def make_plan(options: EvaluationOptions, model: EvaluatedModel) -> Plan:
    """Look at every set that is asked for.

    Raises
    ------
    ValueError
        If a set cannot be used; or is not whole, and that is not allowed. Names all faults.
    """
    plan = Plan()
    _check_model(options, model)
    own = image_sets.labelled_folder(model.class_folders)
    for path, look in (
        (options.imagenet, partial(_plan_imagenet, plan, options)),
        (options.a, partial(_plan_set, plan, IMAGENET_A)),
        (options.r, partial(_plan_set, plan, IMAGENET_R)),
        (options.sketch, partial(_plan_set, plan, image_sets.SKETCH)),
        (options.folder, partial(_plan_set, plan, own)),
        (options.v2, partial(_plan_v2, plan, options)),
        (options.c, partial(_plan_c, plan)),
    ):
        if path is not None:
            try:
                look(path)
            except ValueError as error:
                plan.unusable.append(str(error))
    faults = plan.unusable + ([] if options.allow_incomplete else plan.faults)
    if faults:
        more = [f"… {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        hint = [] if plan.unusable else ["--allow-incomplete goes on, and marks the results"]
        raise ValueError("\n".join(faults[:_SHOWN] + more + hint))
    return plan


def _check_model(options: EvaluationOptions, model: EvaluatedModel) -> None:
    if not model.is_imagenet:
        for option in ("imagenet", "a", "r", "sketch", "v2", "c"):
            if getattr(options, option) is not None:
                raise ValueError(
                    f"{option}: got {model.name} with {len(model.class_folders)} classes, needs a "
                    "model of ImageNet's 1000; --folder takes images of other classes"
                )
    for mode in options.modes:
        if mode not in model.modes:
            raise ValueError(
                f"mode: got {mode!r}, needs {', '.join(model.modes)}: {model.name} has no other"
            )
    for size in options.sizes or (model.own_size,):
        model.normal(size)


def _plan_set(plan: Plan, image_set: ImageSet, path: Path) -> None:
    names = image_set.folders()
    tree = open_tree(image_set.option, path, names.__contains__)
    listing = list_set(image_set, tree)
    if plan.take(listing, image_set.option, tree):
        view = View(image_set.name, image_set.labels() if image_set.labels else None)
        plan.passes.append(Pass(tree, listing.folders, [view], listing.note))


def _plan_imagenet(plan: Plan, options: EvaluationOptions, path: Path) -> None:
    tree = open_validation(path)
    listing = list_set(IMAGENET, tree)
    if not plan.take(listing, "imagenet", tree):
        return
    labels = {label for _, label in listing.folders}
    views = [View(IMAGENET.name)]
    if options.real:
        answers = real_labels(options.real_labels)
        names = (image.path for image in images_below(tree, listing.folders))
        strange = [name for name in names if not _has_answers(name, len(answers))]
        if strange:
            plan.unusable.append(
                f"real: {tree.name}: got {strange[0]}, needs names such as "
                "ILSVRC2012_val_00000001.JPEG, whose number says which answers are right"
            )
        views.append(View(f"{IMAGENET.name}-real", real=answers))
    for asked, image_set, classes in (
        (options.a, IMAGENET_A, indices_of_a),
        (options.r, IMAGENET_R, indices_of_r),
    ):
        if asked is not None and labels & set(classes()):
            views.append(View(f"{image_set.name}-clean", classes()))
    plan.passes.append(Pass(tree, listing.folders, views, listing.note))
    if options.corruptions == "generate":
        check_installed()
        note = ", ".join(filter(None, ("generated", listing.note)))
        plan.passes += [
            Pass(tree, listing.folders, [View(GENERATED)], note, corruption, severity, True)
            for corruption in image_sets.CORRUPTIONS
            for severity in image_sets.SEVERITIES
        ]


def _has_answers(name: str, count: int) -> bool:
    return 1 <= (validation_number(name) or 0) <= count


def _plan_v2(plan: Plan, options: EvaluationOptions, path: Path) -> None:
    tree = open_tree("v2", path, lambda name: bool(_variants([name])))
    # Names on the way to the images: of the folder itself, and of those in it.
    named = _variants([PurePosixPath(tree.name).name, *tree.folders()])
    for variant in options.v2_variants:
        if variant not in named and (named or len(options.v2_variants) > 1):
            has = f"{', '.join(sorted(named))} only" if named else "no folder named as a variant"
            plan.unusable.append(f"v2: {tree.name}: needs a folder of {variant}, it has {has}")
            continue
        inside = [name for name in tree.folders() if _plain(variant) in _plain(name)]
        at = inside[0] if len(inside) == 1 else ""
        listing = list_set(V2[variant], tree, at)
        if plan.take(listing, "v2", tree):
            view = View(V2[variant].name)
            plan.passes.append(Pass(tree, listing.folders, [view], listing.note))


def _variants(names: Sequence[str]) -> set[str]:
    return {variant for variant in V2 if any(_plain(variant) in _plain(name) for name in names)}


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())


def _plan_c(plan: Plan, path: Path) -> None:
    found = list_corruptions(path)
    faults = [f"c: {path}: {fault}" for fault in found.faults]
    (plan.faults if found.listings else plan.unusable).extend(faults)
    for (corruption, severity), (tree, listing) in found.listings.items():
        view = View(image_sets.IMAGENET_C.name)
        plan.passes.append(Pass(tree, listing.folders, [view], listing.note, corruption, severity))
