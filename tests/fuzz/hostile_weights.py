"""Weights files made to cost whoever reads them far more than their bytes."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable, Iterator

import torch
from safetensors.torch import save
from weights_corpus import saved, skeleton, zip_archive, zip_records

SIZE = 1_500_000  # bytes, about, of a file that is filled with something
PROTOCOL = b"\x80\x04"
BOMB = b"X\x03\x00\x00\x00lol" + b"2\x86" * 64  # a tuple of twice itself: 2**64 leaves
_PRIME = 2**61 - 1  # integers that differ by it have the same hash


def text(value: str) -> bytes:
    """Return the instruction that pushes `value`."""
    data = value.encode()
    return b"X" + struct.pack("<I", len(data)) + data


def number(value: int) -> bytes:
    """Return the instruction that pushes `value`, of up to 255 bytes."""
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def in_zip(pickled: bytes, records: dict[str, bytes] | None = None) -> bytes:
    """Return a file of `torch.save` with this pickle and these storages."""
    storages = {f"a/data/{key}": data for key, data in (records or {}).items()}
    return zip_archive({"a/data.pkl": pickled, "a/byteorder": b"little", **storages})


def in_legacy(pickled: bytes, keys: bytes = b"\x80\x02].", storages: bytes = b"") -> bytes:
    """Return a file in the older format with this pickle, storage keys and storages."""
    magic = b"\x80\x02" + number(0x1950A86A20F9469CFC6C) + b"."
    return magic + b"\x80\x02M\xe9\x03.\x80\x02}." + pickled + keys + storages


def tensor(key: str = "0", shape: tuple[int, ...] = (1,), stride: tuple[int, ...] = (1,)) -> bytes:
    """Return the instructions for a float32 tensor on a storage of 4 elements."""
    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text(key) + text("cpu")
    sizes = [b"(" + b"".join(map(number, size)) + b"t" for size in (shape, stride)]
    rebuild = b"ctorch._utils\n_rebuild_tensor_v2\n("
    tail = b"\x89ccollections\nOrderedDict\n)RtR"
    return rebuild + storage + number(4) + b"tQK\x00" + b"".join(sizes) + tail


def pickles() -> dict[str, bytes]:
    """Return pickles by what they do."""
    ordered = b"ccollections\nOrderedDict\n"
    name = b"cmodule\nname\n"
    cases = {
        "a key that is a bomb": b"}" + BOMB + b"Ns.",
        "keys that are bombs": b"}(" + (BOMB + b"N") * 100 + b"u.",
        "a dict of a bomb": b"(" + BOMB + b"Nd.",
        "pairs with a bomb": ordered + b"(](" + b"](" + BOMB + b"Nee" + b"tR.",
        "sets of bombs": b"\x8f(" + BOMB * 50 + b"\x90(" + BOMB + b"\x91.",
        "a persistent bomb": BOMB + b"Q.",
        "a root that is a bomb": BOMB + b".",
        "a bomb called": BOMB + b")R.",
        "a bomb as arguments": name + BOMB + b"R.",
        "a bomb as keywords": name + b")" + BOMB + b"\x92.",
        "a bomb as state": name + b")R" + BOMB + b"b.",
        "a bomb as storage": text("w")
        + b"("
        + text("storage")
        + BOMB
        + BOMB
        + BOMB
        + BOMB
        + b"tQ.",
        "a bomb in place of a weight": b"}" + text("model") + b"}" + text("w") + BOMB + b"ss.",
        "a bomb for a shape": b"}" + text("w") + tensor().replace(number(1), BOMB, 1) + b"s.",
        "one list, many ordered dicts": b"]("
        + b"K\x01K\x01\x86" * (SIZE // 10)
        + b"e\x94"
        + (ordered + b"h\x00\x85R0") * (SIZE // 70)
        + b".",
        "one tuple, many objects": b"("
        + b"N" * (SIZE // 2)
        + b"t\x94"
        + name
        + b"\x94"
        + b"h\x01h\x00}\x92" * (SIZE // 12)
        + b".",
        "one object, many states": name + b")R" + b"}b" * (SIZE // 2) + b".",
        "many calls": name + b"\x94" + b"h\x00)R" * (SIZE // 4) + b".",
        "many instances": b"(imodule\nname\n" * (SIZE // 14) + b".",
        "long integers as keys": b"}("
        + b"".join(
            b"\x8b" + struct.pack("<I", 20_000) + i.to_bytes(20_000, "little") + b"N"
            for i in range(1, SIZE // 20_000)
        )
        + b"u.",
        "a long integer, many times a key": b"}("
        + b"\x8b"
        + struct.pack("<I", SIZE // 2)
        + b"\x7f" * (SIZE // 2)
        + b"N"
        + b"22" * (SIZE // 4)
        + b"u.",
        "a number of many digits": b"L" + b"9" * SIZE + b"L\n.",
        "integers of one hash": b"}("
        + b"".join(number(i * _PRIME + 5) + b"N" for i in range(SIZE // 12))
        + b"u.",
        "memo numbers of one hash": b"N"
        + b"".join(b"p%d\n" % (i * _PRIME + 5) for i in range(SIZE // 26))
        + b".",
        "a wide memo": b"N"
        + b"".join(b"r" + struct.pack("<I", i) for i in range(SIZE // 5))
        + b".",
        "text of wide characters": b"".join(
            text("a" * 60_000 + "\U0001f600") for _ in range(SIZE // 60_000)
        )
        + b".",
        "one long text": text("a" * SIZE + "\U0001f600") + b".",
        "a long name, often": text("m" * 60_000)
        + b"\x94"
        + text("n" * 60_000)
        + b"\x94"
        + b"h\x00h\x01\x93" * (SIZE // 6)
        + b".",
        "a list in lists": b"]" * (SIZE // 2) + b"a" * (SIZE // 2 - 1) + b".",
        "a tuple in tuples": b")" + b"\x85" * SIZE + b".",
        "calls in calls": name + b"\x94)" + b"\x94h\x00h\x01R\x85"[1:] * (SIZE // 6) + b".",
        "state dicts in state dicts": (b"}" + text("state_dict")) * 20_000
        + b"}"
        + b"s" * 20_000
        + b".",
        "many small state dicts": b"}("
        + b"".join(text(f"model_{i}") + b"}" for i in range(SIZE // 20))
        + b"u.",
    }
    for label, unit in {
        "marks": b"(",
        "lists": b"]",
        "dicts": b"}",
        "sets": b"\x8f",
        "tuples": b")\x85",
        "memo entries": b"N\x94",
        "numbers": b"Mab",
        "floats": b"G" + b"12345678",
        "lines": b"I1\n",
        "nothings": b"N0",
    }.items():
        cases[f"many {label}"] = b"N" + unit * (SIZE // len(unit)) + b"."
    return {label: PROTOCOL + pickled for label, pickled in cases.items()}


def storages() -> dict[str, bytes]:
    """Return files whose entries share or claim more than is there."""
    entries = b"".join(text(f"w{i}") + tensor() for i in range(60_000))
    shared = zip_records(saved({"w": torch.zeros(250_000)}))
    plain = next(data for name, data in shared.items() if name.endswith("data.pkl"))
    start, end = plain.index(b"ctorch._utils"), plain.rindex(b"s.") if b"s." in plain else -1
    one = plain[start:end]
    many = (
        PROTOCOL + b"}(" + b"".join(text(f"w{i}") + _unmemoised(one) for i in range(8000)) + b"u."
    )
    types = ("Float", "Half", "BFloat16", "Int", "Short", "Char", "Byte", "Bool", "Untyped")
    kinds = b"".join(
        text(kind) + tensor().replace(b"FloatStorage", kind.encode() + b"Storage") for kind in types
    )
    return {
        "60,000 entries on one storage": in_zip(
            PROTOCOL + b"}(" + entries + b"u.", {"0": bytes(16)}
        ),
        "8,000 entries of a megabyte on one storage": in_zip(many, {"0": bytes(1_000_000)}),
        "one storage of every type": in_zip(PROTOCOL + b"}(" + kinds + b"u.", {"0": bytes(SIZE)}),
        "a stride of nothing": in_zip(
            PROTOCOL + b"}" + text("w") + tensor(shape=(10**9,), stride=(0,)) + b"s.",
            {"0": bytes(16)},
        ),
        "an empty shape with long sides": in_zip(
            PROTOCOL + b"}" + text("w") + tensor(shape=(2**40, 0, 2**40), stride=(0, 0, 0)) + b"s.",
            {"0": bytes(16)},
        ),
        "60,000 records": in_zip(PROTOCOL + b"}.", {str(i): b"" for i in range(60_000)}),
        "60,000 names for one record": _twins(60_000),
        "records of 2**62 bytes": _twins(3, size=2**62),
        "a record that lies at 2**62": _twins(3, offset=2**62),
        "a directory that lies at 2**62": _moved_directory(),
        "a large directory": in_zip(
            PROTOCOL + b"}.", {"x" * 60_000 + str(i): b"" for i in range(90)}
        ),
        "a storage of 2**63 bytes": in_legacy(
            PROTOCOL + b"}" + text("w") + tensor() + b"s.",
            b"\x80\x02](" + text("0") + b"e.",
            struct.pack("<Q", 2**63),
        ),
        "one storage, many keys": in_legacy(
            PROTOCOL + b"}" + text("w") + tensor() + b"s.",
            b"\x80\x02](" + text("0") * 100_000 + b"e.",
            struct.pack("<Q", 4) + bytes(16),
        ),
    }


def _unmemoised(instructions: bytes) -> bytes:
    """Return a tensor's instructions as they are in every place, without places in the memo."""
    import pickletools

    parts = []
    positions = [p or 0 for _, _, p in pickletools.genops(b"\x80\x02" + instructions + b".")]
    data = b"\x80\x02" + instructions + b"."
    for start, end in zip(positions, [*positions[1:], len(data)], strict=True):
        if data[start : start + 1] not in (b"q", b"r", b"\x94", b"\x80", b"."):
            parts.append(data[start:end])
    return b"".join(parts)


def _twins(count: int, size: int | None = None, offset: int | None = None) -> bytes:
    """Return an archive with `count` more names for a record, of that size, at that place."""
    stream = io.BytesIO(in_zip(PROTOCOL + b"}.", {"0": bytes(1000)}))
    with zipfile.ZipFile(stream, "a") as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
        for index in range(count):
            twin = zipfile.ZipInfo(f"a/data/{index + 1}")
            twin.header_offset = info.header_offset if offset is None else offset
            twin.compress_size = twin.file_size = info.file_size if size is None else size
            twin.CRC = info.CRC
            archive.filelist.append(twin)
        archive._didModify = True  # type: ignore[attr-defined]
    return stream.getvalue()


def _moved_directory() -> bytes:
    """Return an archive whose end says, in 64 bits, that its directory is far away and huge."""
    data = in_zip(PROTOCOL + b"}.", {"0": bytes(1000)})
    at = len(data) - 22
    end64 = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 3, 3, 2**62, 2**62)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    return data[:at] + end64 + locator + data[at : at + 8] + b"\xff" * 12 + b"\0\0"


def headers() -> dict[str, bytes]:
    """Return safetensors files with headers that ask for much."""
    entry = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    cases = {
        "a nested header": "[" * SIZE,
        "a nested shape": '{"w":{"dtype":"F32","shape":'
        + "[" * (SIZE // 2)
        + "]" * (SIZE // 2)
        + "}}",
        "many lists": '{"w":[' + "[]," * (SIZE // 3) + "[]]}",
        "many dicts": '{"w":[' + "{}," * (SIZE // 3) + "{}]}",
        "many numbers": '{"w":[' + "300," * (SIZE // 4) + "1]}",
        "many floats": '{"w":[' + "1.5," * (SIZE // 4) + "1]}",
        "many texts": '{"w":[' + '"ab",' * (SIZE // 5) + "1]}",
        "one long number": '{"w":' + "9" * SIZE + "}",
        "one wide text": '{"w":"' + "a" * (SIZE - 10) + '\U0001f600"}',
        "many entries": "{" + ",".join(f'"{i}":{entry}' for i in range(SIZE // 60)) + "}",
        "one entry, many times": "{" + ",".join([f'"w":{entry}'] * (SIZE // 55)) + "}",
        "long sides": f'{{"w":{entry.replace("[0]", "[4611686018427387904,0,9]")}}}',
        "many sides": '{"w":{"dtype":"F32","shape":['
        + "1," * (SIZE // 2)
        + '0],"data_offsets":[0,0]}}',
    }
    files = {label: _with_header(header.encode()) for label, header in cases.items()}
    files["a header longer than the file"] = struct.pack("<Q", 2**62) + b"{}"
    files["a header of 30 MB"] = _with_header(b"{" + b" " * 30_000_000 + b"}")
    return files


def _with_header(header: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header


def networks() -> dict[str, bytes]:
    """Return files that say more of their network than their tensors bear out."""

    def changed(**changes: torch.Tensor) -> dict[str, torch.Tensor]:
        return {**skeleton(), **{name.replace("__", "."): value for name, value in changes.items()}}

    deep = {f"block{stage}.{i}.attn.x": torch.zeros(0) for stage in (1, 2) for i in range(4000)}
    files = {
        "no columns": changed(head__weight=torch.zeros(20_000_000, 0)),
        "no channels": changed(patch_embed1__proj__weight=torch.zeros(8, 0, 7, 7)),
        "a million channels and no kernel": changed(
            patch_embed1__proj__weight=torch.zeros(8, 10**6, 0, 7)
        ),
        "many heads": changed(block1__0__attn__temperature=torch.zeros(300_000, 1, 1)),
        "no heads": changed(block1__0__attn__temperature=torch.zeros(0, 1, 1)),
        "a wide window": changed(block1__0__attn__relative_pos_bias_local=torch.zeros(2, 99_999)),
        "a far block": {**skeleton(), "block1.999999.attn.x": torch.zeros(1)},
        "a block of a long number": {**skeleton(), f"block1.{'9' * 5000}.attn.x": torch.zeros(1)},
        "many blocks": {**skeleton(), **deep},
        "many classes": changed(
            head__weight=torch.zeros(20_000, 16).half(), head__bias=torch.zeros(20_000).half()
        ),
    }
    result = {}
    for label, state in files.items():
        result[f"{label}, zip"] = saved(state)
        result[f"{label}, safetensors"] = save(state)
    return result


def metadata() -> Iterator[tuple[str, dict[str, str]]]:
    """Yield metadata that ask for much, by what they do."""
    yield "a huge image", {"img_size": "99999"}
    yield "a larger image", {"img_size": "9" * 300_000, "pretrain_size": "99999999"}
    yield "odd sizes", {"img_size": "-1", "pretrain_size": "²"}
    yield "many classes", {"num_classes": "999999999", "variant": "transnext_base"}
    yield "nested names", {"class_names": "[" * 60_000}
    yield "many names", {"class_names": json.dumps(["ab"] * 200_000)}
    yield "one long name", {"class_names": json.dumps(["n" * 1_000_000] + ["x"] * 9)}
    yield "numbers", {"class_names": "[" + "9" * 1_000_000 + "]"}
    yield "names of control characters", {"class_names": json.dumps(["\x1b[2J\n"] * 10)}
    yield "an odd source", {"source_file": "\x1b[2J\n" + "x" * 100_000, "\x1b": "\n"}


FILES: dict[str, Callable[[], dict[str, bytes]]] = {
    "pickle": lambda: {name: in_zip(pickled) for name, pickled in pickles().items()},
    "older format": lambda: {name: in_legacy(pickled) for name, pickled in pickles().items()},
    "storages": storages,
    "header": headers,
    "network": networks,
}
