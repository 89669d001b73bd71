"""Values in a pickle that are not plain data: names, calls, persistent ids."""

from __future__ import annotations

from dataclasses import dataclass, field


class PickleDataError(ValueError):
    """The bytes are not a whole, well-formed pickle of data, or ask for more than they may."""


class PickleTooLargeError(PickleDataError):
    """A pickle, well-formed so far, makes more than it may."""


@dataclass(frozen=True, slots=True)
class Name:
    """A name the pickle refers to, such as ``torch._utils._rebuild_tensor_v2``; never imported."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class PersistentId:
    """An object the pickle keeps outside itself; torch keeps its storages so."""

    value: object


# Compared and hashed by identity: two calls are two objects, and their arguments may be nested
# without end.
@dataclass(slots=True, eq=False)
class Call:
    """The result of a call that was not made.

    Attributes
    ----------
    function : object
        What would have been called: a `Name` unless the pickle is odd.
    arguments : tuple[object, ...]
        The positional arguments, as data.
    keywords : object
        The named arguments, as data; None without.
    state : object
        What the pickle would have put into the object afterwards (an ``argparse.Namespace`` keeps
        its values here).
    """

    function: object
    arguments: tuple[object, ...]
    keywords: object = field(default=None)
    state: object = field(default=None)


@dataclass(frozen=True, slots=True)
class Omitted:
    """A long value that is not kept: what it is, and how many bytes it takes in the file."""

    kind: str
    size: int


class Allowance:
    """Bytes of objects that the pickles of a file may still make."""

    __slots__ = ("_left",)

    def __init__(self, size: int) -> None:
        self._left = size

    def spend(self, size: int) -> None:
        """Take `size` bytes, or raise PickleDataError where so many are not left."""
        self._left -= size
        if self._left < 0:
            raise PickleTooLargeError("its pickle makes more objects than weights of its size have")
