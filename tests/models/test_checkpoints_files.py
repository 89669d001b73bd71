"""Weights files of every kind are read whole, or refused with the file's name and the reason."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import struct
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from small_model import small_model
from transnext_models.checkpoints import CheckpointError, read_state_dict, read_weights

FORMATS = ("zip", "legacy")


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    return {name: value.float() for name, value in small_model().state_dict().items()}


def save(value: Any, path: Path, form: str = "zip", protocol: int = 2) -> Path:
    torch.save(value, path, _use_new_zipfile_serialization=form == "zip", pickle_protocol=protocol)
    return path


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> None:
    assert list(left) == list(right)
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype
        assert torch.equal(tensor, right[name])


class Payload:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


class MessageHub:
    """Stands for a training library's class, unknown to whoever reads the file."""

    def __init__(self) -> None:
        self.history = {"loss": [1.0, 2.0]}


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
    with pytest.raises(CheckpointError, match=r"b\.pth: it has several TransNeXts: a\., b\."):
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


# -- what is never run ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", ["args", "extra"])
def test_payload_beside_the_weights_makes_the_file_refused(tmp_path, state, form, protocol, place):
    trace = tmp_path / "run"
    content = {"model": state, place: [Payload(trace)]}
    with pytest.raises(CheckpointError, match=r"x\.pth: malicious: .*mkdir \(not run here\)"):
        read_state_dict(save(content, tmp_path / "x.pth", form, protocol))
    assert not trace.exists()


def test_ordinary_objects_beside_the_weights_are_no_reason_to_refuse(tmp_path, state):
    options = argparse.Namespace(output=Path("runs"), rate=1e-3, seen={1, 2}, when=complex(1, 2))
    same(read_state_dict(save({"model": state, "args": options}, tmp_path / "x.pth")), state)


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("place", ["root", "state dict", "entry", "wrapped in a parameter"])
def test_payload_in_place_of_weights_is_named(tmp_path, state, form, protocol, place):
    trace = tmp_path / "run"
    payload = Payload(trace)

    class Wrapped:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_parameter, (payload, False, OrderedDict())

    content: Any = {
        "root": payload,
        "state dict": {"model": payload, "epoch": 3},
        "entry": {**state, "norm4.weight": payload},
        "wrapped in a parameter": {**state, "norm4.weight": Wrapped()},
    }[place]
    path = save(content, tmp_path / "x.pth", form, protocol)
    with pytest.raises(CheckpointError, match=r"x\.pth: malicious: .*mkdir \(not run here\)"):
        read_state_dict(path)
    assert not trace.exists()


@pytest.mark.parametrize("form", FORMATS)
def test_an_object_in_place_of_a_weight_is_named(tmp_path, state, form):
    path = save({**state, "norm4.weight": MessageHub()}, tmp_path / "x.pth", form)
    with pytest.raises(CheckpointError, match=r"x\.pth: .*'norm4\.weight'.*\(not run\)"):
        read_state_dict(path)


def test_plain_pickle_with_payload(tmp_path):
    trace = tmp_path / "run"
    path = tmp_path / "x.pth"
    path.write_bytes(pickle.dumps(Payload(trace)))
    with pytest.raises(CheckpointError, match=r"x\.pth: a pickle, but not one that torch"):
        read_state_dict(path)
    assert not trace.exists()


@pytest.mark.parametrize("part", range(5))
def test_payload_in_any_pickle_of_the_older_format(tmp_path, state, part):
    """The file is five pickles in a row; torch.load reads each with the same care or none."""
    trace = tmp_path / "run"
    stream = io.BytesIO(save(state, tmp_path / "x.pth", "legacy").read_bytes())
    pickles = []
    for _ in range(5):
        start = stream.tell()
        from transnext_models.checkpoints.pickle_data import read_pickle

        read_pickle(stream)
        pickles.append(stream.getvalue()[start : stream.tell()])
    pickles[part] = pickle.dumps(Payload(trace), 2)
    path = tmp_path / "bad.pth"
    path.write_bytes(b"".join(pickles) + stream.read())
    with pytest.raises(CheckpointError, match=r"bad\.pth"):
        read_state_dict(path)
    assert not trace.exists()


def test_torchscript_is_not_run(tmp_path):
    path = tmp_path / "x.pth"
    records = zip_records(save({"w": torch.zeros(1)}, tmp_path / "y.pth"))
    folder = next(iter(records)).split("/")[0]
    write_zip(path, {**records, f"{folder}/constants.pkl": pickle.dumps(())})
    with pytest.raises(CheckpointError, match="TorchScript"):
        read_state_dict(path)


def test_environment_cannot_turn_the_safety_off(tmp_path, state, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    trace = tmp_path / "run"
    with pytest.raises(CheckpointError, match="malicious"):
        read_state_dict(save({"model": state, "args": Payload(trace)}, tmp_path / "x.pth"))
    assert not trace.exists()


# -- sizes that a file only claims ----------------------------------------------------------------


def rebuild(path: Path, arguments: tuple[Any, ...], function: Any = None) -> Path:
    """Write a zip file whose entry "w" is a tensor with these arguments after its storage."""

    class Tensor:
        def __reduce__(self) -> tuple[Any, ...]:
            storage = torch.zeros(4).storage()
            return function or torch._utils._rebuild_tensor_v2, (storage, *arguments)

    return save({"w": Tensor(), "v": torch.ones(2)}, path)


HOOKS = (False, OrderedDict())


@pytest.mark.filterwarnings("ignore:TypedStorage")
@pytest.mark.parametrize(
    "arguments",
    [
        (0, (5,), (1,), *HOOKS),
        (0, (2**40,), (1,), *HOOKS),
        (0, (2**40, 2**40), (0, 0), *HOOKS),
        (0, (2**30,), (0,), *HOOKS),
        (4, (1,), (1,), *HOOKS),
        (2**61, (1,), (1,), *HOOKS),
        (-1, (1,), (1,), *HOOKS),
        (0, (-1,), (1,), *HOOKS),
        (0, (2,), (-1,), *HOOKS),
        (0, (2,), (2**61,), *HOOKS),
        (0, (10**5000,), (1,), *HOOKS),
        (0, (2,), (1, 1), *HOOKS),
        (0, (2.0,), (1,), *HOOKS),
        (0, "2", "1", *HOOKS),
        (0, (True,), (1,), *HOOKS),
        (0, (1,) * 1000, (1,) * 1000, *HOOKS),
        (0, None, None, *HOOKS),
        (0,),
        (),
        (0, (2,), (1,), *HOOKS, {"neg": True}),
    ],
)
def test_tensors_that_do_not_fit_their_storage(tmp_path, arguments):
    with pytest.raises(CheckpointError, match=r"x\.pth: cannot use its entry 'w'"):
        read_state_dict(rebuild(tmp_path / "x.pth", arguments))


@pytest.mark.filterwarnings("ignore:TypedStorage")
def test_a_tensor_that_fits_is_read(tmp_path):
    path = rebuild(tmp_path / "x.pth", (1, (3,), (1,), *HOOKS))
    assert read_state_dict(path)["w"].tolist() == [0, 0, 0]


def zip_records(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def write_zip(path: Path, records: dict[str, bytes], **options: Any) -> Path:
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, data in records.items():
            archive.writestr(name, data)
    return path


def test_storage_larger_than_its_record(tmp_path):
    """A count that the record does not hold would read memory that is not the file's."""
    records = zip_records(save({"w": torch.zeros(4)}, tmp_path / "x.pth"))
    name = next(name for name in records if name.endswith("data.pkl"))
    records[name] = (
        records[name].replace(b"K\x04tq", b"K\xc8tq").replace(b"K\x04\x85", b"K\xc8\x85")
    )
    with pytest.raises(CheckpointError, match=r"'w': the file has 4 elements for it, not 200"):
        read_state_dict(write_zip(tmp_path / "bad.pth", records))


def test_odd_archives(tmp_path):
    good = zip_records(save({"w": torch.zeros(4)}, tmp_path / "x.pth"))
    folder = next(iter(good)).split("/")[0]

    def refused(records: dict[str, bytes], message: str, **options: Any) -> None:
        with pytest.raises(CheckpointError, match=rf"bad\.pth: .*{message}"):
            read_state_dict(write_zip(tmp_path / "bad.pth", records, **options))

    refused({"a.txt": b"hello"}, "no data.pkl")
    refused({**good, "other/data.pkl": b"N."}, "no data.pkl")
    refused({**good, f"{folder}/byteorder": b"middle"}, "byte order")
    refused({key: value for key, value in good.items() if "/data/" not in key}, "no record '0'")
    refused(good, "compressed", compression=zipfile.ZIP_DEFLATED)
    refused({**good, f"{folder}/data/0": bytes(15)}, "15 bytes")
    refused({**good, f"{folder}/data.pkl": b"garbage"}, "damaged")


def test_records_that_share_bytes(tmp_path):
    """Many entries pointing at the same bytes would unpack to many times the file."""
    path = save({"w": torch.zeros(1000)}, tmp_path / "x.pth")
    with zipfile.ZipFile(path, "a") as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("data/0"))
        for index in range(1, 50):
            twin = zipfile.ZipInfo(info.filename[:-1] + str(index))
            twin.header_offset, twin.CRC = info.header_offset, info.CRC
            twin.compress_size = twin.file_size = info.file_size
            archive.filelist.append(twin)
        archive._didModify = True
    with pytest.raises(CheckpointError, match="claim more bytes"):
        read_state_dict(path)


def test_a_flipped_bit_is_noticed(tmp_path, state):
    data = bytearray(save(state, tmp_path / "x.pth").read_bytes())
    with zipfile.ZipFile(tmp_path / "x.pth") as archive:
        info = max(archive.infolist(), key=lambda entry: entry.file_size)
    data[info.header_offset + 200] ^= 1
    (tmp_path / "x.pth").write_bytes(data)
    with pytest.raises(CheckpointError, match=r"x\.pth: damaged"):
        read_state_dict(tmp_path / "x.pth")


@pytest.mark.parametrize("form", [*FORMATS, "safetensors"])
def test_cut_short_anywhere(tmp_path, form):
    tensors = {"w": torch.randn(40), "v": torch.randn(3, 5)}
    path = tmp_path / "x.pth"
    if form == "safetensors":
        save_file(tensors, path)
    else:
        save(tensors, path, form)
    data = path.read_bytes()
    for length in range(0, len(data), 7):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"x\.pth: "):
            read_state_dict(path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), form=st.sampled_from([*FORMATS, "safetensors"]))
def test_damaged_anywhere(tmp_path, data, form):
    """Whatever bytes are changed, a file is read or refused; nothing else happens."""
    tensors = {"w": torch.ones(10), "v": torch.nn.Parameter(torch.ones(3, 5))}
    path = tmp_path / "x.pth"
    if form == "safetensors":
        save_file(tensors, path)
    else:
        save({"model": tensors, "args": argparse.Namespace(a=1)}, path, form)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    outcome = ""
    try:
        read_state_dict(path)
    except CheckpointError as error:
        outcome = str(error)
    assert not outcome or outcome.startswith(str(path))


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
