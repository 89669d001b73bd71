"""Read the data in a pickle without running it.

A pickle is a small program for a stack machine. Three of its instructions reach outside the data:
looking up a name in any importable module, calling what was found, and handing state to the result.
Python's `pickle` performs them, which is how a weights file can run a command on the machine that
opens it.

This reader decodes the same instructions (`pickletools.genops`, which only parses) and keeps the
data they build: numbers, text, bytes, tuples, lists, dictionaries. A name is kept as a `Name`, the
result of a call as a `Call`; nothing is ever imported or called, so there is no allow-list to get
wrong. What a `Call` means (a tensor, say) is decided later, by code that looks at plain data.

Other ways in that are closed here on purpose: the extension registry (`EXT1/2/4` could fetch a live
object out of `copyreg`'s cache), out-of-band buffers, dictionary keys whose hash takes exponential
time (tuples nested by reference), memo indices that make CPython's own unpickler reserve gigabytes,
and lengths larger than the file.
"""

from __future__ import annotations

import pickletools
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, Any, NoReturn, Protocol, cast


class PickleDataError(ValueError):
    """The bytes are not a whole, well-formed pickle of data."""


class ByteReader(Protocol):
    """What is needed of a file: `read` and `readline` must return no more than the file holds."""

    def read(self, size: int = -1, /) -> bytes: ...

    def readline(self) -> bytes: ...

    def tell(self) -> int: ...


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


# Compared and hashed by identity: two calls are two objects, and comparing arguments could take for
# ever.
@dataclass(slots=True, eq=False)
class Call:
    """The result of a call that was not made.

    Attributes
    ----------
    function
        What would have been called: a `Name` unless the pickle is odd.
    arguments
        The positional arguments, as data.
    state
        What the pickle would have put into the object afterwards (an ``argparse.Namespace`` keeps
        its values here).
    """

    function: object
    arguments: tuple[object, ...]
    state: object = field(default=None)


class _Mark:
    """The machine's bookmark; it never leaves the stack."""


_MARK = _Mark()
_PLAIN_KEYS = (str, bytes, int, float, bool, type(None))
_ORDERED_DICT = Name("collections", "OrderedDict")
_MAX_PROTOCOL = 5


def read_pickle(
    file: ByteReader,
    persistent: Callable[[object], object] = PersistentId,
    called: Callable[[object], None] = lambda function: None,
) -> Any:
    """Read one pickle from `file`, up to and including its STOP.

    Parameters
    ----------
    file
        Positioned at the pickle's first byte; left just behind its last.
    persistent
        Called with each persistent id (data); what it returns stands in its place.
    called
        Told each function that unpickling would call (data, a `Name` unless the pickle is odd).

    Returns
    -------
    object
        Numbers, strings, bytes, None, tuples, lists, dicts, sets, and `Name`, `Call`,
        `PersistentId` for everything else. An ``OrderedDict`` becomes a dict; a dictionary key or
        set member that is not a plain value becomes a `Call`.

    Raises
    ------
    PickleDataError
        If the pickle is cut short, malformed, or uses an instruction that has no meaning as data.
    """
    machine = _Machine(persistent, called)
    try:
        for opcode, argument, _position in pickletools.genops(cast(IO[bytes], file)):
            if opcode.name == "STOP":
                return machine.pop()
            machine.step(opcode.name, argument)
    except PickleDataError:
        raise
    # The parser and the stack operations below report a malformed pickle through these.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, struct.error) as error:
        raise PickleDataError(f"not a well-formed pickle ({error})") from error
    raise PickleDataError("the pickle ends before its STOP instruction")


class _Machine:
    """The pickle stack machine, over inert data."""

    def __init__(
        self, persistent: Callable[[object], object], called: Callable[[object], None]
    ) -> None:
        self.persistent = persistent
        self.called = called
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        handler = _HANDLERS.get(name)
        if handler is None:
            raise PickleDataError(f"the pickle instruction {name} is not data")
        handler(self, argument)

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        value = self.stack.pop()
        if value is _MARK:
            raise PickleDataError("the pickle uses its stack marker as a value")
        return value

    def top(self) -> Any:
        value = self.stack[-1]
        if value is _MARK:
            raise PickleDataError("the pickle uses its stack marker as a value")
        return value

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise PickleDataError("the pickle has no stack marker where one is needed")

    # -- containers -------------------------------------------------------------------------------

    def pop_tuple(self, length: int) -> None:
        items = [self.pop() for _ in range(length)]
        self.push(tuple(reversed(items)))

    def extend(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, list):
            target.extend(items)
        elif not isinstance(target, Call):
            _wrong_target("append to", target)

    def set_items(self, items: list[Any]) -> None:
        target = self.top()
        if len(items) % 2:
            raise PickleDataError("the pickle has a dictionary key without a value")
        if isinstance(target, dict):
            target.update(_pairs(items))
        elif not isinstance(target, Call):
            _wrong_target("set items of", target)

    def add(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, set):
            target.update(_key(item) for item in items)
        elif not isinstance(target, Call):
            _wrong_target("add to", target)

    # -- what Python would do, written down instead -----------------------------------------------

    def name_from_stack(self) -> None:
        name, module = self.pop(), self.pop()
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleDataError("the pickle refers to a name that is not text")
        self.push(Name(module, name))

    def call(self, function: object, arguments: object) -> None:
        if not isinstance(arguments, tuple):
            raise PickleDataError("the pickle calls a name without an argument list")
        self.called(function)
        if function == _ORDERED_DICT:
            self.push(_ordered_dict(arguments))
        else:
            self.push(Call(function, arguments))

    def build(self, state: object) -> None:
        target = self.top()
        if isinstance(target, Call):
            target.state = state
        # A dict (once an OrderedDict) may carry attributes, as torch's state dicts carry
        # `_metadata`: dropped.
        elif not isinstance(target, dict):
            _wrong_target("give state to", target)


def _wrong_target(action: str, target: object) -> NoReturn:
    raise PickleDataError(f"the pickle would {action} a {type(target).__name__}")


def _key(value: Any) -> Any:
    """Return `value` if hashing it is quick, else a stand-in that hashes by identity."""
    if isinstance(value, (*_PLAIN_KEYS, Call)):
        return value
    return Call(None, (value,))


def _pairs(items: list[Any]) -> dict[Any, Any]:
    return {_key(items[i]): items[i + 1] for i in range(0, len(items), 2)}


def _ordered_dict(arguments: tuple[object, ...]) -> dict[Any, Any]:
    """Return the dict of ``OrderedDict()``, or of Python 2's ``OrderedDict([[key, value]])``."""
    if not arguments:
        return {}
    items = arguments[0]
    if len(arguments) != 1 or not isinstance(items, (list, tuple)):
        raise PickleDataError("the pickle builds an OrderedDict from something other than pairs")
    result = {}
    for pair in items:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise PickleDataError(
                "the pickle builds an OrderedDict from something other than pairs"
            )
        result[_key(pair[0])] = pair[1]
    return result


def _name(argument: str) -> Name:
    module, _, name = argument.partition(" ")
    return Name(module, name)


def _instance(machine: _Machine, argument: str) -> None:
    arguments = tuple(machine.pop_to_mark())
    machine.call(_name(argument), arguments)


def _object(machine: _Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    machine.call(items[0], tuple(items[1:]))


def _reduce(machine: _Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.call(function, arguments)


def _new_object_with_keywords(machine: _Machine, _: Any) -> None:
    keywords, arguments, function = machine.pop(), machine.pop(), machine.pop()
    if not isinstance(arguments, tuple):
        raise PickleDataError("the pickle calls a name without an argument list")
    # Nothing that is read back from a call has keywords; they are kept so that no data is silently
    # lost.
    machine.call(function, (*arguments, keywords))


def _set_item(machine: _Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _get(machine: _Machine, index: int) -> None:
    if index not in machine.memo:
        raise PickleDataError(f"the pickle refers to memo entry {index}, which it never stored")
    machine.push(machine.memo[index])


def _protocol(_: _Machine, version: int) -> None:
    if version > _MAX_PROTOCOL:
        raise PickleDataError(f"pickle protocol {version} is not known")


def _pop_one(machine: _Machine, _: Any) -> None:
    del machine.stack[-1]


_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)

_HANDLERS: dict[str, Any] = {
    **dict.fromkeys(_LITERALS, _Machine.push),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.push(_MARK),
    "POP": _pop_one,
    "POP_MARK": lambda m, _: m.pop_to_mark(),
    "DUP": lambda m, _: m.push(m.top()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_to_mark())),
    "TUPLE1": lambda m, _: m.pop_tuple(1),
    "TUPLE2": lambda m, _: m.pop_tuple(2),
    "TUPLE3": lambda m, _: m.pop_tuple(3),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.pop_to_mark()),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.push(_pairs(m.pop_to_mark())),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "EMPTY_SET": lambda m, _: m.push(set()),
    "ADDITEMS": lambda m, _: m.add(m.pop_to_mark()),
    "FROZENSET": lambda m, _: m.push(frozenset(_key(item) for item in m.pop_to_mark())),
    "GET": _get,
    "BINGET": _get,
    "LONG_BINGET": _get,
    "PUT": lambda m, index: m.memo.__setitem__(index, m.top()),
    "BINPUT": lambda m, index: m.memo.__setitem__(index, m.top()),
    "LONG_BINPUT": lambda m, index: m.memo.__setitem__(index, m.top()),
    "MEMOIZE": lambda m, _: m.memo.__setitem__(len(m.memo), m.top()),
    "GLOBAL": lambda m, argument: m.push(_name(argument)),
    "STACK_GLOBAL": lambda m, _: m.name_from_stack(),
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_with_keywords,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda m, _: m.build(m.pop()),
    "PERSID": lambda m, argument: m.push(m.persistent(argument)),
    "BINPERSID": lambda m, _: m.push(m.persistent(m.pop())),
    "PROTO": _protocol,
    "FRAME": lambda m, _: None,
}
