"""What goes through a model once, and the rows that come of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ..training.sources.imagenet import validation_number
from .listing import LabelledImage, images_below
from .trees import Tree

__all__ = ["Pass", "View"]


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

    def right_answers(self, images: Sequence[LabelledImage]) -> Mapping[int, Sequence[int]] | None:
        """Return the right answers by the position of the image; None where labels are right."""
        if self.real is None:
            return None
        numbers = ((place, validation_number(image.path)) for place, image in enumerate(images))
        return {place: self.real[number - 1] for place, number in numbers if number is not None}


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
