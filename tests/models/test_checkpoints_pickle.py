"""The pickle reader keeps data and runs nothing."""

from __future__ import annotations

import argparse
import collections
import contextlib
import copyreg
import io
import math
import pickle
import struct
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from transnext_models.checkpoints.pickle_data import (
    Call,
    Name,
    PersistentId,
    PickleDataError,
    read_pickle,
)

calls: list[tuple[Any, ...]] = []


def trap(*arguments: object) -> str:
    """What a malicious file would run; importable, so pickle itself would call it."""
    calls.append(arguments)
    return "run"


class Malicious:
    """Asks for `trap` to be called when it is unpickled."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return trap, self.arguments


class Stateful:
    """Has every hook that unpickling an object could reach."""

    def __getstate__(self) -> dict[str, int]:
        return {"a": 1}

    def __setstate__(self, state: object) -> None:
        calls.append(("setstate", state))


@pytest.fixture(autouse=True)
def nothing_runs():
    calls.clear()
    yield
    assert calls == []


def read(data: bytes) -> Any:
    return read_pickle(io.BytesIO(data))


def opcodes(*parts: bytes) -> bytes:
    return b"\x80\x04" + b"".join(parts) + b"."


def short_text(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


plain = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(value=plain, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_data_comes_back_as_it_was(value, protocol):
    # Protocols below 3 have no bytes of their own: they write a call.
    expected_bytes = protocol >= 3
    result = read(pickle.dumps(value, protocol))
    if expected_bytes or not _has_bytes(value):
        assert result == value
    assert _types(result) == _types(value) or not expected_bytes


def _has_bytes(value: object) -> bool:
    if isinstance(value, dict):
        return any(map(_has_bytes, value.values()))
    if isinstance(value, (list, tuple)):
        return any(map(_has_bytes, value))
    return isinstance(value, bytes)


def _types(value: object) -> object:
    if isinstance(value, dict):
        return {key: _types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return (type(value), [_types(item) for item in value])
    return type(value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_ordered_dict_keeps_order_and_loses_attributes(protocol):
    value = collections.OrderedDict([("b", 1), ("a", 2)])
    value.metadata = {"version": 1}
    result = read(pickle.dumps(value, protocol))
    assert type(result) is dict
    assert list(result.items()) == [("b", 1), ("a", 2)]


@pytest.mark.parametrize("protocol", range(4, pickle.HIGHEST_PROTOCOL + 1))
def test_sets_and_shared_references(protocol):
    shared = [1]
    value = {"set": {1, "x"}, "frozen": frozenset({2}), "one": shared, "two": shared}
    result = read(pickle.dumps(value, protocol))
    assert result == value
    assert result["one"] is result["two"]


def test_a_list_may_contain_itself():
    value: list[Any] = []
    value.append(value)
    result = read(pickle.dumps(value))
    assert result[0] is result


def test_special_floats():
    nan, infinity = read(pickle.dumps((math.nan, -math.inf)))
    assert math.isnan(nan)
    assert infinity == -math.inf


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_namespace_keeps_its_values(protocol):
    result = read(pickle.dumps(argparse.Namespace(model="tiny", lr=0.1), protocol))
    assert isinstance(result, Call)
    assert result.state == {"model": "tiny", "lr": 0.1}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_call_is_written_down_not_made(protocol):
    result = read(pickle.dumps({"x": Malicious("rm -rf /")}, protocol))["x"]
    assert isinstance(result, Call)
    assert isinstance(result.function, Name)
    assert result.function.name == "trap"
    assert result.arguments == ("rm -rf /",)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_are_neither_made_nor_given_state(protocol):
    result = read(pickle.dumps(Stateful(), protocol))
    assert isinstance(result, Call)
    assert result.state == {"a": 1}


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("builtins", "eval"),
        ("builtins", "__import__"),
        ("os", "path.join"),
        ("torch._utils", "os.system"),
        ("no_such_module_anywhere", "thing"),
        ("transnext_models.checkpoints.pickle_data", "Call.__init__"),
    ],
)
def test_names_are_never_followed(module, name):
    """Also dotted names, which protocol 4 resolves attribute by attribute."""
    reference = short_text(module) + short_text(name) + b"\x93"
    assert read(opcodes(reference)) == Name(module, name)
    result = read(opcodes(reference, b"(", short_text("x"), b"t", b"R"))
    assert result.function == Name(module, name)


def test_every_way_of_calling_is_inert():
    reference = b"cos\nsystem\n"
    for data in (
        reference + b"(Vx\ntR.",  # REDUCE
        b"(ios\nsystem\n.",  # INST
        b"(" + reference + b"Vx\no.",  # OBJ
        b"\x80\x02" + reference + b")\x81.",  # NEWOBJ
        b"\x80\x04" + reference + b")}\x92.",  # NEWOBJ_EX
    ):
        result = read(data)
        assert isinstance(result, Call)
        assert result.function == Name("os", "system")


def test_state_cannot_reach_a_name():
    """BUILD on a function or class would change it for the whole process."""
    with pytest.raises(PickleDataError, match="give state to a Name"):
        read(opcodes(short_text("os") + short_text("system") + b"\x93", b"}", b"b"))
    with pytest.raises(PickleDataError, match="give state to a list"):
        read(opcodes(b"]", b"}", b"b"))


def test_calls_take_items_without_effect():
    made = short_text("a") + short_text("b") + b"\x93)R"
    for tail in (b"K\x01a", b"(K\x01K\x02e", b"K\x01K\x02s", b"(K\x01K\x02u", b"(K\x01\x90"):
        result = read(opcodes(made, tail))
        assert isinstance(result, Call)
        assert result.arguments == ()


def test_extension_registry_is_closed():
    """The registry's cache holds live objects, which an extension code would fetch."""
    copyreg.add_extension(__name__, "trap", 0xEE)
    try:
        data = pickle.dumps(trap, 2)
        assert b"\x82\xee" in data
        pickle.loads(data)  # now the cache has it
        for code in (b"\x82\xee", b"\x83\xee\x00", b"\x84\xee\x00\x00\x00"):
            with pytest.raises(PickleDataError, match="EXT"):
                read(opcodes(code, b")R"))
    finally:
        copyreg.remove_extension(__name__, "trap", 0xEE)


@pytest.mark.parametrize("code", [b"\x97", b"\x98"])
def test_out_of_band_buffers_are_closed(code):
    with pytest.raises(PickleDataError, match="is not data"):
        read(b"\x80\x05" + code + b".")


def test_persistent_ids_go_to_the_given_function():
    seen = []
    data = opcodes(b"(", short_text("storage"), b"K\x07t", b"Q")
    assert read(data) == PersistentId(("storage", 7))
    assert read_pickle(io.BytesIO(data), lambda value: seen.append(value) or "made") == "made"
    assert seen == [("storage", 7)]
    assert read(b"Ptext id\n.") == PersistentId("text id")


def test_hashing_a_key_is_never_slow():
    """A tuple of tuples, each twice the one before, has a hash of 2**80 steps."""
    doubled = b")" + b"2\x86" * 80
    started = time.perf_counter()
    result = read(opcodes(b"}", doubled, b"K\x01s"))
    in_set = read(opcodes(b"\x8f(", doubled, b"\x90"))
    frozen = read(opcodes(b"(", doubled, b"\x91"))
    assert time.perf_counter() - started < 5
    for container in (result, in_set, frozen):
        (key,) = container
        assert isinstance(key, Call)


def test_unhashable_keys_are_kept_apart():
    result = read(opcodes(b"}", b"]", b"K\x01s", b"]", b"K\x02s"))
    assert sorted(result.values()) == [1, 2]


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04r" + struct.pack("<I", 2**32 - 1) + b".",  # memo index, empty stack
        b"\x80\x04Nr" + struct.pack("<I", 2**32 - 1) + b".",  # memo index of 64 GB in CPython
        b"\x80\x04\x8d" + struct.pack("<Q", 2**62) + b"x.",  # text longer than the file
        b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b"x.",  # bytes longer than the file
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"x.",  # bytearray longer than the file
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",  # frame longer than the file
        b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",  # integer longer than the file
    ],
    ids=["memo-empty", "memo", "text", "bytes", "bytearray", "frame", "integer"],
)
def test_claimed_sizes_cost_nothing(data):
    started = time.perf_counter()
    with contextlib.suppress(PickleDataError):
        assert read(data) is None  # the two that are only odd
    assert time.perf_counter() - started < 2


def test_nesting_is_not_limited_by_the_stack():
    depth = 20_000
    result = read(b"]" * depth + b"a" * (depth - 1) + b".")
    for _ in range(depth - 1):
        (result,) = result
    assert result == []
    call = short_text("m") + short_text("f") + b"\x93"
    deep = read(opcodes(call * depth, b")", b"\x85R" * depth))
    assert isinstance(deep, Call)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "exhausted|ends"),
        (b"\x80", "well-formed"),
        (b"\x80\x63N.", "protocol 99"),
        (b"N", "exhausted"),
        (b".", "well-formed"),
        (b"(.", "marker"),
        (b"t.", "no stack marker"),
        (b"(a.", "marker"),
        (b"(2.", "marker"),
        (b"h\x05.", "memo entry 5"),
        (b"}K\x01s.", "well-formed"),
        (b"}(K\x01u.", "without a value"),
        (b"(K\x01d.", "well-formed"),
        (b"K\x01K\x02a.", "append to a int"),
        (b"]K\x01K\x02s.", "set items of a list"),
        (b"\x80\x04](K\x01\x90.", "add to a list"),
        (b"cos\nsystem\nK\x01R.", "without an argument list"),
        (b"\x80\x04K\x01K\x02\x93.", "not text"),
        (b"ccollections\nOrderedDict\nK\x01\x85R.", "OrderedDict"),
        (b"ccollections\nOrderedDict\n]K\x01a\x85R.", "OrderedDict"),
        (b"\xff\xfe\xfd", "well-formed"),
        (b"<!doctype html>", "well-formed"),
    ],
)
def test_malformed_pickles_say_so(data, message):
    with pytest.raises(PickleDataError, match=message):
        read(data)


@settings(max_examples=150)
@given(
    data=st.binary(max_size=60)
    | st.lists(
        st.sampled_from([bytes([code]) for code in range(256)] + [b"K\x01", b"h\x00", b"cos\nx\n"]),
        max_size=30,
    ).map(b"".join)
)
def test_any_bytes_are_read_or_refused(data):
    with contextlib.suppress(PickleDataError):
        read(data)


def test_cut_short_anywhere():
    data = pickle.dumps({"a": [1, 2.5, "text"], "b": collections.OrderedDict(x=(1, 2))}, 4)
    for length in range(len(data)):
        with pytest.raises(PickleDataError):
            read(data[:length])


def test_pickles_follow_each_other_in_a_file():
    file = io.BytesIO(pickle.dumps(1) + pickle.dumps("two") + b"rest")
    assert read_pickle(file) == 1
    assert read_pickle(file) == "two"
    assert file.read() == b"rest"
