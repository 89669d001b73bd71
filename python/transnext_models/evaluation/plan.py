"""What has to be run: every set checked by name, before any image is read."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from .class_lists import indices_of_a, indices_of_r, real_labels
from .corruptions import list_corruptions
from .generated import check_installed
from .image_sets import (
    CORRUPTIONS,
    IMAGENET,
    IMAGENET_A,
    IMAGENET_C,
    IMAGENET_R,
    SEVERITIES,
    SKETCH,
    V2,
    labelled_folder,
)
from .listing import LabelledImage, Listing, images_below, list_set
from .models import EvaluatedModel
from .options import EvaluationOptions
from .trees import Tree, open_tree

__all__ = ["GENERATED", "Pass", "Plan", "View", "make_plan", "right_answers"]

GENERATED = "imagenet-c-generated"
_VALIDATION_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\b", re.IGNORECASE)
_SHOWN = 20


@dataclass(frozen=True)
class View:
    """One way of judging the answers to a pass's images: one row.

    Attributes
    ----------
    set : str
        What the row calls it.
    classes : sequence of int | None
        To which the logits are restricted, and the images with them.
    real : sequence of sequence of int | None
        Right answers by the number in an image's name, instead of its label.
    """

    set: str
    classes: Sequence[int] | None = None
    real: Sequence[Sequence[int]] | None = None


@dataclass(frozen=True)
class Pass:
    """Images that go through the model once, for one or several rows.

    Attributes
    ----------
    tree, folders : Tree, sequence of (str, int)
        The images: those in these folders, with their labels.
    views : sequence of View
    note : str
        What marks their rows.
    corruption, severity : str, int | str
        Of ImageNet-C.
    is_generated : bool
        Whether the corruption has to be made.
    """

    tree: Tree
    folders: Sequence[tuple[str, int]]
    views: Sequence[View]
    note: str = ""
    corruption: str = ""
    severity: int | str = ""
    is_generated: bool = False

    @property
    def title(self) -> str:
        """What is printed while it runs."""
        return " ".join(
            str(part) for part in (self.views[0].set, self.corruption, self.severity) if part
        )

    def images(self) -> list[LabelledImage]:
        """Return its images, in the order in which everything is counted."""
        return images_below(self.tree, self.folders)


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
    if options.imagenet is not None:
        _plan_imagenet(plan, options, options.imagenet)
    for image_set, path in (
        (IMAGENET_A, options.a),
        (IMAGENET_R, options.r),
        (SKETCH, options.sketch),
        (labelled_folder(model.class_folders), options.folder),
    ):
        if path is not None:
            tree = open_tree(image_set.option, path)
            listing = list_set(image_set, tree)
            if plan.take(listing, image_set.option, tree):
                view = View(image_set.name, image_set.labels() if image_set.labels else None)
                plan.passes.append(Pass(tree, listing.folders, [view], listing.note))
    if options.v2 is not None:
        _plan_v2(plan, options, options.v2)
    if options.c is not None:
        _plan_c(plan, options.c)
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


def _plan_imagenet(plan: Plan, options: EvaluationOptions, path: Path) -> None:
    tree = open_tree("imagenet", path)
    listing = list_set(IMAGENET, tree)
    if not plan.take(listing, "imagenet", tree):
        return
    labels = {label for _, label in listing.folders}
    views = [View(IMAGENET.name)]
    if options.real:
        answers = real_labels(options.real_labels)
        names = (image.path for image in images_below(tree, listing.folders))
        strange = [name for name in names if validation_number(name) is None]
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
            for corruption in CORRUPTIONS
            for severity in SEVERITIES
        ]


def validation_number(path: str) -> int | None:
    """Return the number in a validation image's name, from 1 to 50,000; None for another name."""
    match = _VALIDATION_NAME.match(PurePosixPath(path).name)
    number = int(match[1]) if match else 0
    return number if 1 <= number <= (IMAGENET.images or 0) else None


def _plan_v2(plan: Plan, options: EvaluationOptions, path: Path) -> None:
    tree = open_tree("v2", path)
    # Names on the way to the images: of the folder itself, and of those in it.
    names = [PurePosixPath(tree.name).name, *tree.folders()]
    named = {variant for variant in V2 if any(_plain(variant) in _plain(name) for name in names)}
    for variant in options.v2_variants:
        if variant not in named and (named or len(options.v2_variants) > 1):
            has = f"{', '.join(sorted(named))} only" if named else "no folder named as a variant"
            plan.unusable.append(f"v2: {tree.name}: needs a folder of {variant}, it has {has}")
            continue
        inside = [name for name in tree.folders() if _plain(variant) in _plain(name)]
        at = inside[0] if len(inside) == 1 else None
        listing = list_set(V2[variant], tree, at)
        if plan.take(listing, "v2", tree):
            view = View(V2[variant].name)
            plan.passes.append(Pass(tree, listing.folders, [view], listing.note))


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9.]", "", name.lower())


def _plan_c(plan: Plan, path: Path) -> None:
    found = list_corruptions(path)
    faults = [f"c: {path}: {fault}" for fault in found.faults]
    (plan.faults if found.listings else plan.unusable).extend(faults)
    for (corruption, severity), (tree, listing) in found.listings.items():
        view = View(IMAGENET_C.name)
        plan.passes.append(Pass(tree, listing.folders, [view], listing.note, corruption, severity))


def right_answers(
    images: Sequence[LabelledImage], real: Sequence[Sequence[int]]
) -> Mapping[int, Sequence[int]]:
    """Return the right answers by the position of the image."""
    numbers = (validation_number(image.path) for image in images)
    return {
        position: real[number - 1] for position, number in enumerate(numbers) if number is not None
    }
