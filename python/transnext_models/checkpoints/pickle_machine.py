"""The pickle stack machine over inert data, every step accounted for; see `pickle_data`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NoReturn

from .pickle_code import INSTRUCTION_NAMES, ByteReader, instructions
from .pickle_values import Allowance, Call, Name, PickleDataError


class _Mark:
    """The machine's bookmark; it never leaves the stack."""


_MARK = _Mark()
_ORDERED_DICT = Name("collections", "OrderedDict")
_MAX_PROTOCOL = 5
_MAX_MEMO = 1 << 32
_LONGEST_PATH = 500  # of a name: module or qualified name
# Their hashes are quick and, but for a few numbers, differ; that of an int below 2**60 is itself.
_PLAIN_KEYS = (str, bytes, float, bool, type(None), Call)
_HASHED_INTEGERS = 1 << 60

# Bytes that an instruction may cost at most, measured on CPython: an empty set is the largest, with
# its place on the stack. An entry of a dictionary costs what the table has grown by.
_STEP = 64
_PAID_AT_ONCE = 256
_OBJECT = 128
_SET = 256
_ENTRY = 192
_ITEM = 16


class Machine:
    """A pickle's stack and memo, and what its instructions do to them.

    Parameters
    ----------
    persistent, called, allowance : Callable[[object], object], Callable[[object], None], Allowance
        See `pickle_data.read_pickle`.
    """

    def __init__(
        self,
        persistent: Callable[[object], object],
        called: Callable[[object], None],
        allowance: Allowance,
    ) -> None:
        self.persistent = persistent
        self.called = called
        self.spend = allowance.spend
        self.stack: list[Any] = []
        # Picklers count their memo up from 0; whoever wants other numbers pays for a dictionary.
        self.memo: list[Any] = []
        self.odd_memo: dict[int, Any] = {}

    def run(self, file: ByteReader) -> Any:
        """Carry out the instructions in `file` up to STOP, and return what is on the stack."""
        for count, (name, argument) in enumerate(instructions(file), start=1):
            if count % _PAID_AT_ONCE == 0:
                self.spend(_PAID_AT_ONCE * _STEP)
            if name == "STOP":
                return self.pop()
            _HANDLERS[name](self, argument)
        raise AssertionError("instructions end with STOP or an error")

    def push(self, value: Any, cost: int = 0) -> None:
        """Put a value on the stack, and pay for it."""
        if cost:
            self.spend(cost)
        self.stack.append(value)

    def push_literal(self, value: Any) -> None:
        """Put what the pickle spells out on the stack."""
        self.push(value, sys.getsizeof(value))

    def pop(self) -> Any:
        """Take the value on top of the stack."""
        value = self.stack.pop()
        if value is _MARK:
            raise PickleDataError("the pickle uses its stack marker as a value")
        return value

    def top(self) -> Any:
        """Return the value on top of the stack."""
        value = self.stack[-1]
        if value is _MARK:
            raise PickleDataError("the pickle uses its stack marker as a value")
        return value

    def pop_to_mark(self) -> list[Any]:
        """Take all above the topmost marker, and the marker."""
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                return items
        raise PickleDataError("the pickle has no stack marker where one is needed")

    # -- containers -------------------------------------------------------------------------------

    def pop_tuple(self, length: int) -> None:
        """Replace the topmost values by a tuple of them."""
        items = [self.pop() for _ in range(length)]
        self.push(tuple(reversed(items)), _OBJECT)

    def push_tuple(self) -> None:
        """Replace all above the topmost marker by a tuple."""
        items = self.pop_to_mark()
        self.push(tuple(items), _OBJECT + _ITEM * len(items))

    def extend(self, items: list[Any]) -> None:
        """Append to the list on top of the stack."""
        target = self.top()
        if isinstance(target, list):
            self.spend(_ITEM * len(items))
            target.extend(items)
        elif not isinstance(target, Call):
            _wrong_target("append to", target)

    def set_items(self, items: list[Any]) -> None:
        """Set items of the dict on top of the stack: keys and values in turn."""
        target = self.top()
        if len(items) % 2:
            raise PickleDataError("not a well-formed pickle (a key without a value)")
        if isinstance(target, dict):
            for index in range(0, len(items), 2):
                target[self.key(items[index])] = items[index + 1]
        elif not isinstance(target, Call):
            _wrong_target("set items of", target)

    def push_dict(self) -> None:
        """Replace all above the topmost marker by a dict."""
        items = self.pop_to_mark()
        self.push({}, _OBJECT)
        self.set_items(items)

    def add(self, items: list[Any]) -> None:
        """Add to the set on top of the stack."""
        target = self.top()
        if isinstance(target, set):
            target.update(map(self.key, items))
        elif not isinstance(target, Call):
            _wrong_target("add to", target)

    def key(self, value: Any) -> Any:
        """Return `value` if hashing it is quick and rarely the same, else a stand-in."""
        self.spend(_ENTRY)
        kind = type(value)
        if kind in _PLAIN_KEYS or (kind is int and abs(value) < _HASHED_INTEGERS):
            return value
        return Call(None, (value,))

    def ordered_dict(self, arguments: tuple[object, ...]) -> dict[Any, Any]:
        """Return the dict of ``OrderedDict()``, or Python 2's ``OrderedDict([[key, value]])``."""
        self.spend(_OBJECT)
        if not arguments:
            return {}
        items = arguments[0]
        if len(arguments) != 1 or not isinstance(items, (list, tuple)):
            _wrong_pairs()
        result = {}
        for pair in items:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2:
                _wrong_pairs()
            result[self.key(pair[0])] = pair[1]
        return result

    def store(self, index: int) -> None:
        """Remember the topmost value under a number."""
        if index == len(self.memo):
            self.spend(_ITEM)
            self.memo.append(self.top())
        elif 0 <= index < len(self.memo):
            self.memo[index] = self.top()
        elif 0 <= index < _MAX_MEMO:
            self.spend(_ENTRY)
            self.odd_memo[index] = self.top()
        else:
            raise PickleDataError("the pickle numbers its memo beyond any pickle's")

    def recall(self, index: int) -> None:
        """Push what was remembered under a number."""
        if 0 <= index < len(self.memo):
            self.stack.append(self.memo[index])
        elif index in self.odd_memo:
            self.stack.append(self.odd_memo[index])
        else:
            raise PickleDataError(f"the pickle refers to memo entry {index}, which it never stored")

    # -- what Python would do, written down instead -----------------------------------------------

    def push_name(self, module: object, name: object) -> None:
        """Push a name in a module, which is never imported."""
        if not (isinstance(name, str) and isinstance(module, str)):
            raise PickleDataError("the pickle refers to a name that is not text")
        if len(module) > _LONGEST_PATH or len(name) > _LONGEST_PATH:
            raise PickleDataError("the pickle refers to a name longer than any module's")
        self.push(Name(module, name), _OBJECT + sys.getsizeof(module) + sys.getsizeof(name))

    def call(self, function: object, arguments: object, keywords: object = None) -> None:
        """Write down a call that Python would make."""
        if not isinstance(arguments, tuple):
            raise PickleDataError("the pickle calls a name without an argument list")
        self.called(function)
        if function == _ORDERED_DICT and keywords is None:
            self.push(self.ordered_dict(arguments))
        else:
            self.push(Call(function, arguments, keywords), _OBJECT)

    def build(self, state: object) -> None:
        """Write down the state that an object would get."""
        target = self.top()
        if isinstance(target, Call):
            target.state = state
        # A dict (once an OrderedDict) may carry attributes, as torch's state dicts carry
        # `_metadata`: dropped.
        elif not isinstance(target, dict):
            _wrong_target("give state to", target)

    def push_persistent(self, value: object) -> None:
        """Push what a persistent id stands for."""
        self.push(self.persistent(value), _SET)


def _wrong_target(action: str, target: object) -> NoReturn:
    raise PickleDataError(f"the pickle would {action} a {type(target).__name__}")


def _wrong_pairs() -> NoReturn:
    raise PickleDataError("the pickle builds an OrderedDict from something other than pairs")


def _name_from_stack(machine: Machine, _: Any) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push_name(module, name)


def _instance(machine: Machine, reference: tuple[str, str]) -> None:
    machine.push_tuple()
    arguments = machine.pop()
    machine.push_name(*reference)
    machine.call(machine.pop(), arguments)


def _object(machine: Machine, _: Any) -> None:
    items = machine.pop_to_mark()
    machine.spend(_OBJECT + _ITEM * len(items))
    machine.call(items[0], tuple(items[1:]))


def _reduce(machine: Machine, _: Any) -> None:
    arguments, function = machine.pop(), machine.pop()
    machine.call(function, arguments)


def _new_object_with_keywords(machine: Machine, _: Any) -> None:
    keywords, arguments, function = machine.pop(), machine.pop(), machine.pop()
    machine.call(function, arguments, keywords)


def _set_item(machine: Machine, _: Any) -> None:
    value, key = machine.pop(), machine.pop()
    machine.set_items([key, value])


def _frozen_set(machine: Machine, _: Any) -> None:
    machine.push(frozenset(map(machine.key, machine.pop_to_mark())), _SET)


def _protocol(_: Machine, version: int) -> None:
    if version > _MAX_PROTOCOL:
        raise PickleDataError(f"pickle protocol {version} is not known")


def _pop_one(machine: Machine, _: Any) -> None:
    del machine.stack[-1]


def _pop_mark(machine: Machine, _: Any) -> None:
    machine.pop_to_mark()


_LITERALS = (
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
)


def _no_data(name: str) -> Callable[[Machine, Any], None]:
    def refuse(machine: Machine, argument: Any) -> None:
        raise PickleDataError(f"the pickle instruction {name} is not data")

    return refuse


_HANDLERS: dict[str, Callable[[Machine, Any], None]] = {
    **{name: _no_data(name) for name in INSTRUCTION_NAMES},
    **dict.fromkeys(_LITERALS, Machine.push_literal),
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "MARK": lambda m, _: m.push(_MARK),
    "POP": _pop_one,
    "POP_MARK": _pop_mark,
    "DUP": lambda m, _: m.push(m.top()),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE": lambda m, _: m.push_tuple(),
    "TUPLE1": lambda m, _: m.pop_tuple(1),
    "TUPLE2": lambda m, _: m.pop_tuple(2),
    "TUPLE3": lambda m, _: m.pop_tuple(3),
    "EMPTY_LIST": lambda m, _: m.push([], _OBJECT),
    "LIST": lambda m, _: m.push(m.pop_to_mark(), _OBJECT),
    "APPEND": lambda m, _: m.extend([m.pop()]),
    "APPENDS": lambda m, _: m.extend(m.pop_to_mark()),
    "EMPTY_DICT": lambda m, _: m.push({}, _OBJECT),
    "DICT": lambda m, _: m.push_dict(),
    "SETITEM": _set_item,
    "SETITEMS": lambda m, _: m.set_items(m.pop_to_mark()),
    "EMPTY_SET": lambda m, _: m.push(set(), _SET),
    "ADDITEMS": lambda m, _: m.add(m.pop_to_mark()),
    "FROZENSET": _frozen_set,
    "GET": Machine.recall,
    "BINGET": Machine.recall,
    "LONG_BINGET": Machine.recall,
    "PUT": Machine.store,
    "BINPUT": Machine.store,
    "LONG_BINPUT": Machine.store,
    "MEMOIZE": lambda m, _: m.store(len(m.memo) + len(m.odd_memo)),
    "GLOBAL": lambda m, reference: m.push_name(*reference),
    "STACK_GLOBAL": _name_from_stack,
    "REDUCE": _reduce,
    "NEWOBJ": _reduce,
    "NEWOBJ_EX": _new_object_with_keywords,
    "INST": _instance,
    "OBJ": _object,
    "BUILD": lambda m, _: m.build(m.pop()),
    "PERSID": lambda m, argument: m.push_persistent(argument),
    "BINPERSID": lambda m, _: m.push_persistent(m.pop()),
    "PROTO": _protocol,
    "FRAME": lambda m, _: None,
}
