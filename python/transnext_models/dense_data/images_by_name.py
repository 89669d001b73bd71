"""Images of a folder, or of one in an archive, by their names without suffix."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..images import is_hidden
from ..images.formats import is_image_name
from .archived import names_in
from .errors import AnnotationError

__all__ = ["images_by_stem", "paired"]

_SHOWN = 3


def images_by_stem(folder: Path) -> dict[str, Path]:
    """Return the images in a folder in the order of their names.

    Raises
    ------
    AnnotationError
        It cannot be read, or two images differ in their suffix only.
    """
    names = names_in(str(folder))
    if not names and not folder.is_dir():
        raise AnnotationError(folder, "", "cannot be read as a folder")
    found: dict[str, Path] = {}
    for file in sorted(folder / name for name in names):
        if is_hidden(file.name) or not is_image_name(file) or file.is_dir():
            continue
        if file.stem in found:
            raise AnnotationError(
                folder, file.name, f"has the name of {found[file.stem].name} but for its suffix"
            )
        found[file.stem] = file
    return found


def paired(images: Path, masks: Path, only: Sequence[str] | None = None) -> list[tuple[Path, Path]]:
    """Return each image with the mask of its name.

    Parameters
    ----------
    images, masks : Path
        Folders.
    only : Sequence[str] | None
        The names, without suffix, that are wanted; None wants all.

    Raises
    ------
    AnnotationError
        An image has no mask, or a mask no image; names the first.
    """
    of_images, of_masks = images_by_stem(images), images_by_stem(masks)
    wanted = list(of_images | of_masks if only is None else only)
    for folder, there, what in ((masks, of_masks, "mask"), (images, of_images, "image")):
        lacking = [stem for stem in wanted if stem not in there]
        if lacking:
            names = ", ".join(lacking[:_SHOWN])
            raise AnnotationError(folder, "", f"has no {what} for {len(lacking)} names: {names}")
    return [(of_images[stem], of_masks[stem]) for stem in wanted]
