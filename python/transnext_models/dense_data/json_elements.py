"""Read a large JSON object piece by piece: the elements of its lists, one at a time.

The annotations of COCO are 450 MB of text, whose numbers would take several times that as objects
of Python. Here only the text and one element are in memory.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from .errors import AnnotationError

__all__ = ["Element", "top_level_elements"]

_SPACE = re.compile(r"[ \t\n\r]*")
_DEEPEST = "is nested too deeply"


class Element(NamedTuple):
    """A value of the object at the top: of a list each element, with its number."""

    key: str
    number: int | None
    value: Any


def top_level_elements(file: Path) -> Iterator[Element]:
    """Yield what a file's object holds, in its order.

    Raises
    ------
    AnnotationError
        It cannot be read, is no JSON, no object, or has a key twice; says where.
    """
    reader = _Reader(_text(file), file)
    try:
        yield from reader.object()
    except RecursionError as error:
        raise AnnotationError(file, reader.place, _DEEPEST) from error
    except json.JSONDecodeError as error:
        where = f"line {error.lineno} column {error.colno}"
        raise AnnotationError(file, where, f"no JSON ({error.msg})") from error
    except AnnotationError:
        raise
    except ValueError as error:  # a number of more digits than Python takes
        raise AnnotationError(file, reader.place, str(error)) from error


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except OSError as error:
        raise AnnotationError(file, "", f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(file, f"byte {error.start}", "is no UTF-8 text") from error
    except MemoryError as error:
        raise AnnotationError(file, "", "is too large for the memory here") from error


class _Reader:
    """A position in the text."""

    def __init__(self, text: str, file: Path) -> None:
        self._text = text
        self._file = file
        self._decode = json.JSONDecoder().raw_decode
        self._at = 0
        self.place = ""

    def object(self) -> Iterator[Element]:
        self._take("{")
        keys: set[str] = set()
        if not self._has("}"):
            while True:
                key = self._value()
                if not isinstance(key, str):
                    raise json.JSONDecodeError("Expecting a key", self._text, self._at)
                if key in keys:
                    raise AnnotationError(self._file, f"key {key!r}", "is there twice")
                keys.add(key)
                self._take(":")
                self.place = key
                if self._peek() == "[":
                    yield from self._list(key)
                else:
                    yield Element(key, None, self._value())
                if not self._has(","):
                    break
            self._take("}")
        if self._peek():
            raise json.JSONDecodeError("Extra data", self._text, self._at)

    def _list(self, key: str) -> Iterator[Element]:
        self._take("[")
        if self._has("]"):
            return
        index = 0
        while True:
            self.place = f"{key}[{index}]"
            yield Element(key, index, self._value())
            index += 1
            if not self._has(","):
                break
        self._take("]")

    def _peek(self) -> str:
        space = _SPACE.match(self._text, self._at)
        assert space is not None
        self._at = space.end()
        return self._text[self._at : self._at + 1]

    def _has(self, sign: str) -> bool:
        if self._peek() != sign:
            return False
        self._at += 1
        return True

    def _take(self, sign: str) -> None:
        if not self._has(sign):
            raise json.JSONDecodeError(f"Expecting {sign!r}", self._text, self._at)

    def _value(self) -> Any:
        self._peek()
        value, self._at = self._decode(self._text, self._at)
        return value
