"""Weights files of every kind are read, and others refused with the file's name and the reason."""

from __future__ import annotations

import argparse
import io
import pickle
import struct
import sys
from collections import OrderedDict
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from models.weights_files import FORMATS, MessageHub, same, save, write_zip, zip_records
from transnext_models.checkpoints import CheckpointError, read_state_dict, read_weights

# -- what is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("form", FORMATS)
def test_bare_state_dict(tmp_path, state, form, protocol):
    path = save(OrderedDict(state), tmp_path / "x.pth", form, protocol)
    weights = read_weights(path)
    same(weights.state_dict, state)
    assert (weights.prefix, weights.left_out) == ("", 0)
    assert weights.architecture.num_classes == 5


@pytest.mark.parametrize("form", FORMATS)
def test_training_checkpoint(tmp_path, state, form):
    parameters = [torch.nn.Parameter(value.clone()) for value in state.values()]
    optimiser = torch.optim.AdamW(parameters)
    sum(parameter.sum() for parameter in parameters).backward()
    optimiser.step()
    content = {
        "model": OrderedDict(state),
        "optimizer": optimiser.state_dict(),
        "epoch": 299,
        "scaler": {"scale": 65536.0},
        "args": argparse.Namespace(model="transnext_micro", lr=1e-3, betas=(0.9, 0.999)),
    }
    same(read_state_dict(save(content, tmp_path / "x.pth", form)), state)


@pytest.mark.parametrize("form", FORMATS)
def test_dense_task_checkpoint(tmp_path, state, form):
    content = {
        "meta": {"epoch": 12, "hook": MessageHub(), "env": {"seed": 1}},
        "message_hub": MessageHub(),
        "state_dict": OrderedDict(
            [(f"backbone.{name}", value) for name, value in state.items()]
            + [("neck.convs.0.weight", torch.zeros(2)), ("neck.count", torch.tensor(3))]
        ),
    }
    weights = read_weights(save(content, tmp_path / "x.pth", form))
    same(weights.state_dict, state)
    assert (weights.prefix, weights.left_out) == ("backbone.", 2)


@pytest.mark.parametrize(
    "prefix", ["module.", "model.", "module.backbone.", "_orig_mod.", "student."]
)
def test_prefixes_are_removed(tmp_path, state, prefix):
    path = tmp_path / "x.safetensors"
    save_file({prefix + name: value for name, value in state.items()}, path)
    weights = read_weights(path)
    same(dict(sorted(weights.state_dict.items())), dict(sorted(state.items())))
    assert weights.prefix == prefix


def test_two_networks_in_one_file(tmp_path, state):
    known = {
        **{f"model.{k}": v for k, v in state.items()},
        **{f"ema.{k}": v + 1 for k, v in state.items()},
    }
    same(read_state_dict(save({"state_dict": known}, tmp_path / "a.pth")), state)
    unknown = {**{f"a.{k}": v for k, v in state.items()}, **{f"b.{k}": v for k, v in state.items()}}
    with pytest.raises(CheckpointError, match=r"b\.pth: it has several TransNeXts: 'a\.', 'b\.'"):
        read_state_dict(save(unknown, tmp_path / "b.pth"))


@pytest.mark.parametrize("start", [b"PK", b"\x80\x02"])
def test_safetensors_whose_length_looks_like_another_format(tmp_path, start):
    """The first bytes are the header's length, which can be those of a zip file or a pickle."""
    path = tmp_path / "x.safetensors"
    wanted = int.from_bytes(start, "little")
    save_file({"w": torch.ones(2)}, path, metadata={"filler": ""})
    header = int.from_bytes(path.read_bytes()[:8], "little")
    for extra in range(wanted - header - 8, wanted - header + 8):
        save_file({"w": torch.ones(2)}, path, metadata={"filler": "x" * extra})
        data = path.read_bytes()
        content = data[8 : 8 + int.from_bytes(data[:8], "little")]
        body = data[8 + len(content) :]
        if len(content) <= wanted:
            path.write_bytes(struct.pack("<Q", wanted) + content.ljust(wanted) + body)
            break
    assert path.read_bytes().startswith(start)
    assert read_state_dict(path)["w"].tolist() == [1, 1]


def test_safetensors_metadata(tmp_path, state):
    path = tmp_path / "x"  # the format is in the bytes, not the name
    save_file(state, path, metadata={"variant": "small"})
    weights = read_weights(path)
    same(dict(sorted(weights.state_dict.items())), dict(sorted(state.items())))
    assert weights.metadata == {"variant": "small"}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_floating_point_types(tmp_path, state, form, dtype):
    converted = {name: value.to(dtype) for name, value in state.items()}
    same(read_state_dict(save(converted, tmp_path / "x.pth", form)), converted)


@pytest.mark.parametrize("form", FORMATS)
def test_every_kind_of_tensor(tmp_path, form):
    """Views, strides, parameters, shared storages, scalars and empty tensors."""
    base = torch.randn(6, 8)
    tensors = {
        "whole": base,
        "transposed": base.t(),
        "part": base[2:4, 1::3],
        "shared": base.view(-1)[5:9],
        "parameter": torch.nn.Parameter(torch.randn(3)),
        "scalar": torch.tensor(2.5),
        "empty": torch.empty(0, 4),
    }
    result = read_state_dict(save(tensors, tmp_path / "x.pth", form))
    for name, tensor in tensors.items():
        assert result[name].shape == tensor.shape
        assert torch.equal(result[name], tensor)


def test_an_old_file_made_by_hand(tmp_path):
    """The older format with a view of a storage, as torch 0.4 wrote it, and big-endian zip."""
    values = torch.arange(10, dtype=torch.float32)
    stream = io.BytesIO()
    for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
        pickle.dump(part, stream, protocol=2)

    class Writer(pickle._Pickler):  # the one written in Python may be told to refer to classes
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, View):
                return ("storage", torch.FloatStorage, "7", "cpu", 10, ("8", 3, 4))
            return None

    class View:
        pass

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor, (View(), 1, (3,), (1,))

    Writer(stream, protocol=2).dump({"w": Tensor()})
    pickle.dump(["7"], stream, protocol=2)
    stream.write(struct.pack("<q", 10) + values.numpy().tobytes())
    path = tmp_path / "old.pth"
    path.write_bytes(stream.getvalue())
    assert read_state_dict(path)["w"].tolist() == [4.0, 5.0, 6.0]


def test_big_endian_file(tmp_path):
    values = torch.tensor([1.0, -2.5, 3e9])
    records = zip_records(save({"w": values}, tmp_path / "x.pth"))
    folder = next(iter(records)).split("/")[0]
    records[f"{folder}/byteorder"] = b"big"
    records[f"{folder}/data/0"] = values.numpy().astype(">f4").tobytes()
    swapped = write_zip(tmp_path / "big.pth", records)
    expected = values if sys.byteorder == "little" else None
    assert expected is None or torch.equal(read_state_dict(swapped)["w"], expected)


# -- what is no weights file ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty file"),
        (b"<!DOCTYPE html>\n<html>Sign in</html>", "a web page"),
        (b"\n\n  <html>404</html>", "a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n", "git lfs pull"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "neither"),
        (b"Entry not found", "neither"),
        (b"{}", "neither"),
        (struct.pack("<Q", 10**9) + b'{"w"', "damaged or cut short"),
        (struct.pack("<Q", 2) + b"{}", None),
        (struct.pack("<Q", 4) + b"{]xx", "damaged or cut short"),
        (bytes(257) + b"ustar" + bytes(250), "2017"),
        (pickle.dumps({"w": [1.0]}), "a pickle, but not one"),
        (b"PK\x03\x04" + bytes(100), "damaged or cut short"),
        (b"\x80", "damaged or cut short"),
    ],
)
def test_files_of_other_kinds(tmp_path, content, message):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    if message is None:  # a safetensors file without tensors
        assert read_state_dict(path) == {}
        return
    with pytest.raises(CheckpointError, match=message) as error:
        read_state_dict(path)
    assert str(error.value).startswith(f"{path}: ")


def test_no_file(tmp_path):
    with pytest.raises(CheckpointError, match=r"missing\.pth: .*No such file"):
        read_state_dict(tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match="a folder"):
        read_state_dict(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "at its top level are nothing"),
        ({"epoch": 3, "lr": 0.1}, "at its top level are 'epoch', 'lr'"),
        ([1, 2], "of type list"),
        (None, "it is None"),
        ({"model": None}, "'model' is None"),
        ({"state_dict": {}}, "is empty"),
        ({"model": {1: torch.zeros(1)}}, "without a name"),
        ({"w": torch.zeros(1), "note": "text"}, "entry 'note': it is of type str"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_torch_files_without_weights(tmp_path, content, message, form):
    with pytest.raises(CheckpointError, match=message):
        read_state_dict(save(content, tmp_path / "x.pth", form))


# -- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_must_be_finite(tmp_path, state, bad):
    broken = dict(state)
    broken["norm2.weight"] = state["norm2.weight"].clone()
    broken["norm2.weight"][3] = bad
    with pytest.raises(
        CheckpointError, match=r"'norm2\.weight' has 1 NaN or infinite values of 16"
    ):
        read_state_dict(save(broken, tmp_path / "x.pth"))


def test_large_finite_values_are_fine(tmp_path):
    """Their sum overflows, which the quick check must not take for an infinity."""
    tensors = {"w": torch.full((4,), 1e308, dtype=torch.float64)}
    same(read_state_dict(save(tensors, tmp_path / "x.pth")), tensors)


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool, torch.complex64])
def test_values_must_be_floating_point(tmp_path, state, dtype):
    broken = {**state, "head.bias": torch.zeros(5, dtype=dtype)}
    with pytest.raises(CheckpointError, match=r"'head\.bias' is "):
        read_state_dict(save(broken, tmp_path / "x.pth"))


def test_eight_bit_floats_are_refused(tmp_path):
    tensor = torch.zeros(3).to(torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match=r"'w'.*float16 to float64"):
        read_state_dict(save({"w": tensor}, tmp_path / "x.pth"))
    save_file({"w": tensor}, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match="'w' is float8_e4m3fn"):
        read_state_dict(tmp_path / "x.safetensors")
