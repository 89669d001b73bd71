"""Read small XML files as trees, without what makes XML dangerous."""

from __future__ import annotations

from pathlib import Path
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from .checks import read_text
from .errors import AnnotationError

__all__ = ["read_tree"]

_MOST_BYTES = 16 << 20
_DEEPEST = 100


def read_tree(file: Path) -> Element:
    """Return the root of an XML file.

    Raises
    ------
    AnnotationError
        It cannot be read, is no XML, larger than 16 MiB, nested over a hundred deep, or declares
        entities, which could grow without bounds or name other files.
    """
    text = read_text(file, _MOST_BYTES)
    builder = TreeBuilder()
    depth = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _DEEPEST:
            raise AnnotationError(file, f"<{name}>", f"is nested over {_DEEPEST} deep")
        builder.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse(name: str, *_: object) -> None:
        raise AnnotationError(file, f"entity {name}", "entities are not read")

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = builder.data
    parser.EntityDeclHandler = refuse
    try:
        # As UTF-8, whatever encoding it declares: so it was read.
        parser.Parse(text.encode(), True)
    except expat.ExpatError as error:
        where = f"line {error.lineno} column {error.offset + 1}"
        raise AnnotationError(file, where, f"no XML ({expat.ErrorString(error.code)})") from error
    return builder.close()
