"""Sizes that a file only claims, records that overlap, flipped bits and cut files are noticed."""

from __future__ import annotations

import argparse
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from models.weights_files import FORMATS, save, write_zip, zip_records
from transnext_models.checkpoints import CheckpointError, read_state_dict

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
