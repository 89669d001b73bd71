"""Small weights files of every kind that is read, to start mutations from."""

from __future__ import annotations

import argparse
import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict
from typing import Any

import torch
from safetensors.torch import save

WIDTHS = (8, 8, 16, 16)
CLASSES = 3


def skeleton() -> dict[str, torch.Tensor]:
    """The fewest entries that say which TransNeXt they belong to."""
    state: dict[str, torch.Tensor] = OrderedDict()
    inputs = 3
    for stage, width in enumerate(WIDTHS, start=1):
        state[f"patch_embed{stage}.proj.weight"] = torch.full((width, inputs, 1, 1), 0.5)
        state[f"block{stage}.0.attn.temperature"] = torch.ones(2, 1, 1)
        inputs = width
    state["block1.0.attn.relative_pos_bias_local"] = torch.zeros(2, 9)
    state["block4.0.attn.qkv.weight"] = torch.zeros(2, WIDTHS[-1])
    state["head.weight"] = torch.zeros(CLASSES, WIDTHS[-1])
    state["head.bias"] = torch.zeros(CLASSES)
    return state


def weights_files() -> dict[str, bytes]:
    """Return valid files by name."""
    state = skeleton()
    half = {name: value.half() for name, value in state.items()}
    averaged = {f"module.{name}": value * 2 for name, value in state.items()}
    parameters = {name: torch.nn.Parameter(value) for name, value in state.items()}
    tied = {**state, "block4.0.attn.qkv.weight": state["head.weight"][:2], "x": state["head.bias"]}
    training = {
        "model": state,
        "optimizer": {"state": {0: {"step": torch.tensor(3.0), "exp_avg": state["head.bias"]}}},
        "epoch": 299,
        "args": argparse.Namespace(lr=1e-3, betas=(0.9, 0.999), name="x" * 70, seen={1, 2}),
    }
    dense = {
        "meta": {"env": {"seed": 1}, "config": "model = dict(\n)"},
        "state_dict": OrderedDict(
            [(f"backbone.{name}", value) for name, value in state.items()]
            + [("neck.weight", torch.zeros(2)), ("neck.count", torch.tensor(3))]
        ),
        "message_hub": {"lr": [0.1, 0.2], "when": None, "big": 1 << 80, "done": (True, False)},
    }
    both = {"state_dict": state, "state_dict_ema": averaged, "ema": {"module": half, "n": 3}}
    metadata = {"img_size": "96", "class_names": json.dumps(["a", "b", "ç"]), "format": "pt"}
    return {
        "bare.zip": saved(state),
        "half-protocol-4.zip": saved(half, protocol=4),
        "parameters.zip": saved(parameters, protocol=3),
        "tied.zip": saved(tied),
        "training.zip": saved(training),
        "dense.zip": saved(dense, protocol=5),
        "both.zip": saved(both),
        "big-endian.zip": _with_record(saved(state), "byteorder", b"big"),
        "bare.legacy": saved(state, legacy=True),
        "training.legacy": saved(training, legacy=True, protocol=4),
        "python-2.legacy": _python_2(state),
        "weights.safetensors": save(state, metadata),
        "half.safetensors": save(half),
        "wrapped.safetensors": save({f"model.{name}": value for name, value in half.items()}),
    }


def saved(content: Any, *, legacy: bool = False, protocol: int = 2) -> bytes:
    """Return what `torch.save` writes."""
    stream = io.BytesIO()
    torch.save(content, stream, _use_new_zipfile_serialization=not legacy, pickle_protocol=protocol)
    return stream.getvalue()


def zip_records(data: bytes) -> dict[str, bytes]:
    """Return the records of a zip archive by name."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def zip_archive(records: dict[str, bytes]) -> bytes:
    """Return a zip archive of these records, as `torch.save` would store them."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in records.items():
            archive.writestr(zipfile.ZipInfo(name, (1980, 0, 0, 0, 0, 0)), content)
    return stream.getvalue()


def _with_record(data: bytes, name: str, content: bytes) -> bytes:
    records = zip_records(data)
    folder = next(iter(records)).partition("/")[0]
    return zip_archive({**records, f"{folder}/{name}": content})


def _python_2(state: dict[str, torch.Tensor]) -> bytes:
    """The older format as Python 2 wrote it: pairs for an OrderedDict, and no memo."""
    stream = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True, "type_sizes": {}}):
        pickle.dump(part, stream, protocol=2)
    pairs = [
        b"](" + _text(name) + _tensor(str(index), value) + b"e"
        for index, (name, value) in enumerate(state.items())
    ]
    stream.write(b"\x80\x02ccollections\nOrderedDict\n(](" + b"".join(pairs) + b"etR.")
    pickle.dump([str(index) for index in range(len(state))], stream, protocol=2)
    for value in state.values():
        stream.write(struct.pack("<q", value.numel()) + value.numpy().tobytes())
    return stream.getvalue()


def _tensor(key: str, value: torch.Tensor) -> bytes:
    storage = b"(" + _text("storage") + b"ctorch\nFloatStorage\n" + _text(key) + _text("cpu")
    storage += _number(value.numel()) + b"NtQ"
    sizes = [b"(" + b"".join(map(_number, size)) + b"t" for size in (value.shape, value.stride())]
    return b"ctorch._utils\n_rebuild_tensor\n(" + storage + _number(0) + b"".join(sizes) + b"tR"


def _text(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def _number(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)
