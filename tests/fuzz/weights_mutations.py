"""Mutations of weights files that know their formats, so that they get past the first check.

A random byte changed in a file ends at a checksum or a length. So a mutation takes a file apart (a
zip archive into records, a pickle into instructions, a safetensors header into JSON), changes one
or several of the parts, and puts the file together again with the checksums right. Everything is
drawn from one generator: the same seed gives the same file.
"""

from __future__ import annotations

import io
import json
import pickletools
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from weights_corpus import zip_archive, zip_records

NUMBERS = (0, 1, 2, 3, 4, 7, 8, 9, 24, 255, 256, 1000, 65535, 2**31 - 1, 2**31, 2**32, 2**40)
NUMBERS += (2**61, 2**62, 2**63 - 1, 2**63, 2**64 - 1, 2**200, -1, -2, -(2**31), -(2**63))
TEXTS = ("", "x", "storage", "cpu", "0", "1", "99", "state_dict", "model", "model_ema", "module")
TEXTS += ("head.weight", "head.bias", "block1.0.attn.temperature", "block1.999999.attn.x")
TEXTS += ("block1." + "9" * 600, "patch_embed1.proj.weight", "a.patch_embed1.proj.weight")
TEXTS += ("\x1b[31m\n", "\u202e\u2028", "é\U0001f600", "__metadata__", "n" * 700, ".", "..")
NAMES = ("torch FloatStorage", "torch HalfStorage", "torch LongStorage", "torch UntypedStorage")
NAMES += ("torch._utils _rebuild_tensor", "torch._utils _rebuild_tensor_v2", "os system")
NAMES += ("torch._utils _rebuild_tensor_v3", "torch._utils _rebuild_parameter")
NAMES += ("torch IntStorage", "torch ShortStorage", "torch BFloat16Storage")
NAMES += ("collections OrderedDict", "builtins getattr", "numpy.core.multiarray _reconstruct")
DTYPES = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "I64",
    "I32",
    "I16",
    "U8",
    "BOOL",
    "F8_E4M3",
    "F4",
    "F6_E2M3",
    "X",
    "",
)
# Pieces of pickle that ask for much, or for what is odd.
SNIPPETS = (
    b"2\x86" * 40,  # a tuple of twice itself, forty times
    b"K\x01" + b"2\x86" * 60 + b"Ns",
    b"]2a2a2a",
    b"(" * 50,
    b"}" * 200,
    b"\x8f" * 200,
    b"0" * 5,
    b"\x94" * 100,
    b"N\x85" * 100,
    b"]" * 300 + b"a" * 299,
    b"ccollections\nOrderedDict\n)R",
    b"ccollections\nOrderedDict\n(](NNee",
    b"ccollections\nOrderedDict\n)}\x92",
    b"cos\nsystem\n(X\x04\x00\x00\x00trueTR",
    b"cos\nsystem\n\x85R",
    b"(ibuiltins\neval\n",
    b"\x8b\x10\x00\x00\x00" + b"\xff" * 16,
    b"\x8a\xff" + b"\x7f" * 255,
    b"L" + b"9" * 5000 + b"L\n",
    b"I" + b"1" * 5000 + b"\n",
    b"r\xff\xff\xff\xff",
    b"p99999999999999999999\n",
    b"\x82\xee",
    b"\x97\x98",
    b"b",
    b"Q",
    b"s",
    b"u",
    b"e",
    b"\x91",
    b"\x81",
    b"\x92",
    b"\x93",
    b"R",
    b".",
)


def mutated(data: bytes, random: Random) -> bytes:
    """Return `data`, a weights file, with one to four changes."""
    for _ in range(random.choice((1, 1, 1, 2, 2, 4))):
        data = _mutated_once(data, random)
    return data


def _mutated_once(data: bytes, random: Random) -> bytes:
    if random.random() < 0.15:
        return _bytes(data, random)
    try:
        if data.startswith(b"PK"):
            return _zip(data, random)
        if data[8:9] == b"{":
            return _safetensors(data, random)
        return _legacy(data, random)
    except Exception:  # taken apart no more, after changes before
        return _bytes(data, random)


# -- bytes ----------------------------------------------------------------------------------------


def _bytes(data: bytes, random: Random) -> bytes:
    changed = bytearray(data or b"\0")
    kind = random.randrange(6)
    # Headers and directories stand at the ends.
    edge = random.choice((len(changed), 64, 200))
    at = random.randrange(min(edge, len(changed)))
    if random.random() < 0.5:
        at = len(changed) - 1 - at
    if kind == 0:
        changed[at] ^= 1 << random.randrange(8)
    elif kind == 1:
        changed[at] = random.choice((0, 1, 127, 128, 255, random.randrange(256)))
    elif kind == 2:
        del changed[at : at + random.choice((1, 2, 8, 100))]
    elif kind == 3:
        changed[at:at] = random.randbytes(random.choice((1, 2, 8, 100)))
    elif kind == 4:
        width = random.choice((2, 4, 8))
        number = random.choice(NUMBERS) % (1 << 8 * width)
        changed[at : at + width] = number.to_bytes(width, "little")
    else:
        del changed[at:]
    return bytes(changed)


# -- zip ------------------------------------------------------------------------------------------


def _zip(data: bytes, random: Random) -> bytes:
    kind = random.randrange(10)
    if kind == 0:
        return _directory(data, random)
    records = zip_records(data)
    pickled = next(name for name in records if name.endswith("data.pkl"))
    folder = pickled.partition("/")[0]
    name = random.choice(list(records))
    if kind == 1:
        del records[name]
    elif kind == 2:
        records[name] = _bytes(records[name], random)
    elif kind == 3:
        other = random.choice(
            (*records, f"{folder}/data/9", "x/data.pkl", f"{folder}/constants.pkl")
        )
        records[other] = records[name]
    elif kind == 4:
        records[f"{folder}/byteorder"] = random.choice((b"big", b"little", b"", b"x" * 40))
    else:
        records[pickled] = _pickle(records[pickled], random)
    return zip_archive(records)


def _directory(data: bytes, random: Random) -> bytes:
    """Change a number in a zip archive's local headers, central directory or its end."""
    changed = bytearray(data)
    signature = random.choice((b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06"))
    places = [at for at in range(len(data) - 4) if data[at : at + 4] == signature]
    if not places:
        return _bytes(data, random)
    at = random.choice(places) + random.randrange(4, 46)
    width = random.choice((1, 2, 4))
    number = random.choice(NUMBERS) % (1 << 8 * width)
    changed[at : at + width] = number.to_bytes(width, "little")
    return bytes(changed)


# -- pickles --------------------------------------------------------------------------------------


def _pickle(data: bytes, random: Random) -> bytes:
    """Change an instruction of a pickle, or some."""
    parts = _instructions(data)
    at = random.randrange(1, len(parts))
    kind = random.randrange(8)
    if kind == 0:
        del parts[at : at + random.choice((1, 1, 3, 20))]
    elif kind == 1:
        parts[at:at] = [parts[random.randrange(len(parts))]] * random.choice((1, 2, 50))
    elif kind == 2:
        other = random.randrange(1, len(parts))
        parts[at], parts[other] = parts[other], parts[at]
    elif kind == 3:
        parts.insert(at, random.choice(SNIPPETS))
    elif kind == 4:
        start = random.randrange(len(parts))
        parts[at:at] = parts[start : start + random.choice((2, 10, 40))]
    else:
        # Mostly what says something: numbers, text, names.
        places = [index for index, part in enumerate(parts) if part[:1] in _ARGUMENTS]
        at = random.choice(places or [at])
        parts[at] = _ARGUMENTS.get(parts[at][:1], lambda random: b"N")(random)
    return b"".join(parts)


def _instructions(data: bytes) -> list[bytes]:
    starts = [position or 0 for _, _, position in pickletools.genops(data)]
    return [data[a:b] for a, b in zip(starts, [*starts[1:], len(data)], strict=True)]


def _a_number(random: Random) -> bytes:
    number = random.choice(NUMBERS)
    if 0 <= number < 256:
        return b"K" + bytes([number])
    size = number.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + number.to_bytes(size, "little", signed=True)


def _a_text(random: Random) -> bytes:
    text = random.choice(TEXTS).encode()
    return b"X" + struct.pack("<I", len(text)) + text


def _a_name(random: Random) -> bytes:
    module, _, name = random.choice(NAMES).partition(" ")
    return f"c{module}\n{name}\n".encode()


def _a_memo(random: Random) -> bytes:
    return random.choice((b"h", b"q")) + bytes([random.randrange(256)])


_ARGUMENTS: dict[bytes, Callable[[Random], bytes]] = {
    **dict.fromkeys((b"K", b"M", b"J", b"\x8a", b"I", b"L"), _a_number),
    **dict.fromkeys((b"X", b"\x8c", b"\x8d", b"V", b"U"), _a_text),
    **dict.fromkeys((b"c", b"\x93"), _a_name),
    **dict.fromkeys((b"h", b"q"), _a_memo),
}


def _legacy(data: bytes, random: Random) -> bytes:
    """Change one of the five pickles of the older format, or a storage's length."""
    stream, pickles = io.BytesIO(data), []
    for _ in range(5):
        start = stream.tell()
        for _ in pickletools.genops(stream):
            pass
        pickles.append(data[start : stream.tell()])
    storages = bytearray(stream.read())
    if random.random() < 0.2:
        number = random.choice(NUMBERS) % 2**64
        storages[:8] = number.to_bytes(8, "little")
    else:
        which = random.choice((0, 1, 2, 3, 3, 3, 3, 3, 4))
        pickles[which] = _pickle(pickles[which], random)
    return b"".join(pickles) + storages


# -- safetensors ----------------------------------------------------------------------------------


def _safetensors(data: bytes, random: Random) -> bytes:
    length = int.from_bytes(data[:8], "little")
    text, body = data[8 : 8 + length].decode(), data[8 + length :]
    kind = random.randrange(8)
    if kind == 0:
        number = random.choice(NUMBERS) % 2**64
        return number.to_bytes(8, "little") + data[8:]
    if kind == 1:
        at = random.randrange(1, len(text))
        piece = random.choice(("[" * 200, "{" * 200, '"', ",", "9" * 5000, "1e9", "-", "null", " "))
        text = text[:at] + piece + text[at + random.choice((0, 1, 5)) :]
    elif kind == 2:
        body = _bytes(body, random)
    else:
        text = json.dumps(_json(json.loads(text), random))
    header = text.encode()
    return len(header).to_bytes(8, "little") + header + body


def _json(header: dict[str, Any], random: Random) -> dict[str, Any]:
    name = random.choice(list(header))
    entry = header[name]
    kind = random.randrange(8)
    if kind == 0:
        del header[name]
    elif kind == 1:
        header[random.choice(TEXTS)] = header.pop(name)
    elif kind == 2:
        header["__metadata__"] = random.choice(
            (
                None,
                [],
                {"img_size": str(random.choice(NUMBERS)), "class_names": "[" * 2000},
                {"class_names": json.dumps(["a", "b", random.choice(TEXTS)]), "img_size": "x"},
                {"pretrain_size": 3},
                {random.choice(TEXTS): random.choice(TEXTS)},
            )
        )
    elif kind == 3:
        header[name] = random.choice((None, 3, [], {}, "x", {"dtype": "F32"}))
    elif isinstance(entry, dict) and entry.get("shape") is not None:
        _entry(entry, random)
    return header


def _entry(entry: dict[str, Any], random: Random) -> None:
    kind = random.randrange(5)
    if kind == 0:
        entry["dtype"] = random.choice(DTYPES)
    elif kind == 1:
        entry["shape"] = [random.choice(NUMBERS) for _ in range(random.choice((0, 1, 2, 4, 30)))]
    elif kind == 2 and entry["shape"]:
        entry["shape"][random.randrange(len(entry["shape"]))] = random.choice(NUMBERS)
    elif kind == 3:
        entry["shape"] = entry["shape"][::-1]
    else:
        entry["data_offsets"][random.randrange(2)] = random.choice(NUMBERS)


def numbered(files: dict[str, bytes], number: int) -> bytes:
    """Return mutation `number` of `files`: the same for the same number."""
    random = Random(number)
    return mutated(random.choice(list(files.values())), random)
