"""Nothing in a weights file is ever run, and a file made to run something is named."""

from __future__ import annotations

import argparse
import io
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch

from models.weights_files import FORMATS, MessageHub, same, save, write_zip, zip_records
from transnext_models.checkpoints import CheckpointError, read_state_dict


class Payload:
    """Leaves a file behind if it is ever unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


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
