"""Whatever is in a weights file: at most 1 s and 1 s per MB, 64 MB and 4 times its size."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hostile_weights import FILES, metadata, storages
from safetensors.torch import save_file
from weights_corpus import saved, skeleton, weights_files
from weights_oracle import examine

from measured_calls import MB, Outcome, measured, needs_proc
from transnext_models import create_model
from transnext_models.checkpoints import (
    CheckpointError,
    WeightsWarning,
    convert,
    load_checkpoint,
    read_weights,
)
from transnext_models.checkpoints.read import count_not_finite

SETUP = """
import torch
torch.set_num_threads(1)
from transnext_models import create_model
from transnext_models.checkpoints import convert, load_checkpoint, read_state_dict, read_weights
from transnext_models.classifier import Classifier
"""
# Other processes may hold the processors; what is found here goes wrong by factors of thousands.
PATIENCE = 5


def check(outcomes: list[Outcome], sizes: list[int], labels: list[str]) -> None:
    for outcome, size, label in zip(outcomes, sizes, labels, strict=True):
        assert outcome.error in ("", "CheckpointError"), (label, outcome)
        assert outcome.seconds < PATIENCE * (1 + size / MB), (label, outcome)
        assert outcome.memory < 64 * MB + 4 * size, (label, outcome)


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("group", FILES)
def test_files_that_ask_for_much(tmp_path, group):
    labels, sizes, calls, paths = [], [], [], []
    for index, (label, data) in enumerate(FILES[group]().items()):
        path = tmp_path / f"{index}.pth"
        path.write_bytes(data)
        labels.append(label)
        sizes.append(len(data))
        paths.append(path)
        calls.append(f"len(read_weights({str(path)!r}, strict=False).state_dict)")
    outcomes = measured(SETUP, calls)
    check(outcomes, sizes, labels)
    for outcome, path in zip(outcomes, paths, strict=True):
        if outcome.error:
            assert outcome.message.startswith(f"{path}: ")
            assert outcome.message.isprintable()


@pytest.fixture(scope="module")
def pico() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return create_model("transnext_pico").half().state_dict()


@needs_proc
@pytest.mark.slow
def test_metadata_that_ask_for_much(tmp_path, pico):
    labels, sizes, calls = [], [], []
    for index, (label, extra) in enumerate(metadata()):
        path = tmp_path / f"{index}.safetensors"
        save_file(pico, path, metadata=extra)
        labels.append(label)
        sizes.append(path.stat().st_size)
        calls.append(f"Classifier.load(weights={str(path)!r}).preprocess.size <= 1024")
    outcomes = measured(SETUP, calls)
    check(outcomes, sizes, labels)
    assert {outcome.value for outcome in outcomes} == {"True"}


@needs_proc
@pytest.mark.slow
def test_a_small_file_that_claims_to_be_a_large_model(tmp_path, pico):
    """A model is built for weights that fit it, not for a name, a class count or a depth."""
    large = create_large()
    columns = {**pico, "head.weight": torch.zeros(20_000_000, 0)}
    half = {name: value for name, value in pico.items() if not name.startswith("block3")}
    labels, sizes, calls = [], [], []
    for label, state in {
        "names of a large model": large,
        "no columns": columns,
        "no third stage": half,
        "skeleton": skeleton(),
    }.items():
        for name in ("transnext_pico", "transnext_base"):
            path = tmp_path / f"{label} {name}.pth"
            path.write_bytes(saved(state))
            for call in (
                f"create_model({name!r}, weights={str(path)!r})",
                f"Classifier.load({name!r}, {str(path)!r})",
                f"convert({str(path)!r}, {str(path) + '.out'!r}, overwrite=True)",
            ):
                labels.append(f"{label}: {call}")
                sizes.append(path.stat().st_size)
                calls.append(f"{call} and 'done'")
    outcomes = measured(SETUP, calls)
    check(outcomes, sizes, labels)
    refused = {outcome.error for outcome in outcomes if "convert" not in outcome.value}
    assert "CheckpointError" in refused


def create_large() -> dict[str, torch.Tensor]:
    """Return what says that a file is Base, and no more of it: empty tensors for the rest."""
    with torch.device("meta"):
        state = create_model("transnext_base").state_dict()
    shown = ("proj.weight", "temperature", "relative_pos_bias_local", "head.weight")
    small = {
        name: torch.zeros(value.shape, dtype=torch.float16)
        for name, value in state.items()
        if name.endswith(shown) and value.numel() < 50_000
    }
    return {name: small.get(name, torch.zeros(0)) for name in state}


@needs_proc
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("legacy", [True, False])
def test_good_files(tmp_path, dtype, legacy):
    """The promise holds for what is read, too: half precision becomes float32 in the model."""
    torch.manual_seed(0)
    state = create_model("transnext_micro").to(dtype).state_dict()
    path = tmp_path / "micro.pth"
    path.write_bytes(saved({"model": state, "model_ema": state}, legacy=legacy))
    size = path.stat().st_size
    text, out = str(path), str(tmp_path / "out.safetensors")
    calls = [
        f"len(read_state_dict({text!r}))",
        f"create_model('transnext_micro', weights={text!r}) and 1",
        f"load_checkpoint(create_model('transnext_micro'), {text!r}).loaded",
        f"Classifier.load(weights={text!r}) and 1",
        f"convert({text!r}, {out!r}, overwrite=True) and 1",
        f"convert({text!r}, {out!r}, dtype=torch.float32, overwrite=True) and 1",
    ]
    outcomes = measured(SETUP, calls)
    check(outcomes[:2] + outcomes[3:], [size] * 5, calls[:2] + calls[3:])
    assert all(outcome.value for outcome in outcomes)


# -- what is no ordinary file ---------------------------------------------------------------------


@contextmanager
def listening(path: Path) -> Iterator[Path]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        yield path


@needs_proc
def test_no_ordinary_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    os.mkfifo("pipe")
    Path("folder").mkdir()
    Path("empty").write_bytes(b"")
    Path("loop").symlink_to("loop")
    with listening(Path("socket")):
        kinds = {
            "pipe": "a pipe",
            "folder": "a folder",
            "empty": "an empty file",
            "loop": "cannot be read",
            "socket": "a socket",
            "/dev/zero": "a device",
            "/dev/null": "a device",
            "/dev/stdin": "",  # whatever it is
            "/proc/self/mem": "",
            "no\0name": "cannot be read",
            "x" * 5000: "cannot be read",
            "missing": "No such file",
        }
        calls = [f"read_weights({name!r})" for name in kinds]
        calls += [
            "Classifier.load(weights='pipe')",
            "create_model('transnext_pico', weights='pipe')",
        ]
        for name, text, outcome in zip(
            [*kinds, "pipe", "pipe"],
            [*kinds.values(), "a pipe", "a pipe"],
            measured(SETUP, calls, seconds=10),
            strict=True,
        ):
            assert outcome.error == "CheckpointError", (name, outcome)
            assert text in outcome.message, (name, outcome)
            assert outcome.message.startswith(f"{name}: ") or "\0" in name


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(saved(skeleton()))
    path.chmod(0)
    with pytest.raises(CheckpointError, match=r"x\.pth: cannot be read \(Permission denied\)"):
        read_weights(path)


@pytest.mark.parametrize("name", ["bare.zip", "bare.legacy", "weights.safetensors"])
def test_a_file_that_becomes_shorter_while_it_is_read(tmp_path, monkeypatch, name):
    """Its end is missing when it is asked for; a mapped file would end the process."""
    from transnext_models.checkpoints import read

    path = tmp_path / name
    path.write_bytes(weights_files()[name])
    find = read.find_state_dict

    def cut(*arguments):
        os.truncate(path, path.stat().st_size // 2)
        return find(*arguments)

    monkeypatch.setattr(read, "find_state_dict", cut)
    monkeypatch.setattr(read.OpenFile, "__init__", _unbuffered(read.OpenFile.__init__))
    with pytest.raises(CheckpointError, match=rf"{name}: (it became shorter|damaged)"):
        read_weights(path)


def _unbuffered(original):
    """So small a file would be in the buffer whole."""

    def make(self, path, stream, size):
        original(self, path, os.fdopen(os.dup(stream.fileno()), "rb", buffering=16), size)

    return make


def test_weights_can_be_written_to_the_file_they_came_from(tmp_path):
    """What is mapped into memory would be overwritten while it is written."""
    path = tmp_path / "x.safetensors"
    save_file(skeleton(), path)
    state = read_weights(path).state_dict
    save_file({name: value + 1 for name, value in state.items()}, path)
    assert all(value.isfinite().all() for value in state.values())
    save_file(state, path)
    assert read_weights(path).state_dict.keys() == skeleton().keys()


def test_growing_files_are_read_or_refused(tmp_path):
    path = tmp_path / "x.pth"
    for data in weights_files().values():
        for length in range(0, len(data), 97):
            path.write_bytes(data[:length])
            assert examine(path, thoroughly=False) != "read"


@needs_proc
def test_files_of_holes(tmp_path):
    """A file of 5 GB that takes no room on the disk; it has as many bytes as it says."""
    size = 5 * 1000 * MB
    header = {"w": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    text = json.dumps(header).encode()
    path = tmp_path / "holes.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text)
    os.truncate(path, path.stat().st_size + size)
    (outcome,) = measured(SETUP, [f"read_weights({str(path)!r})"], memory=200 * MB)
    assert outcome.error == "CheckpointError"
    assert "would take 5,000,000,000 bytes; at most 4,294,967,296" in outcome.message


# -- numbers that are not borne out ---------------------------------------------------------------


def test_an_entry_without_elements_says_nothing_of_the_network(tmp_path, pico):
    path = tmp_path / "x.pth"
    torch.save({**pico, "head.weight": torch.zeros(20_000_000, 0)}, path)
    assert read_weights(path).architecture is None
    with pytest.raises(CheckpointError, match=r"x\.pth: .*not those of a TransNeXt"):
        convert(path, tmp_path / "out.safetensors")
    with pytest.raises(CheckpointError, match=r"x\.pth: does not fit the model"):
        create_model("transnext_pico", weights=path)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("block1.0.attn.temperature", (0, 1, 1)),
        ("block1.0.attn.temperature", (3, 1, 1)),
        ("block1.0.attn.temperature", (2,)),
        ("block1.0.attn.relative_pos_bias_local", (2, 8)),
        ("patch_embed1.proj.weight", (8, 0, 7, 7)),
        ("patch_embed2.proj.weight", (8, 9, 1, 1)),
        ("head.weight", (3, 15)),
        ("head.weight", (3,)),
        ("head.weight", ()),
        ("block2.1000.x", (1,)),
        ("block2.99999999999999999999.x", (1,)),
        ("block2.2.x", (1,)),
    ],
)
def test_shapes_that_contradict_each_other(tmp_path, name, shape):
    """No block without the one before; no number of blocks that no network has."""
    path = tmp_path / "x.pth"
    torch.save({**skeleton(), name: torch.zeros(shape)}, path)
    weights = read_weights(path)
    if name.startswith("block2.9"):  # is no block's number at all
        assert weights.architecture.depths == (1, 1, 1, 1)
        return
    assert weights.architecture is None
    with pytest.raises(CheckpointError, match=r"x\.pth: "):
        create_model("transnext_pico", weights=path)


def test_a_tensor_without_dimensions_in_place_of_a_matrix(tmp_path, pico):
    for name in ("head.weight", "patch_embed1.proj.weight", "block1.0.attn.temperature"):
        path = tmp_path / "x.pth"
        torch.save({**pico, name: torch.tensor(1.0)}, path)
        for options in ({}, {"in_chans": 1}):
            with pytest.raises(CheckpointError, match=r"x\.pth: "):
                create_model("transnext_pico", weights=path, **options)


def test_a_storage_is_of_one_type(tmp_path):
    path = tmp_path / "x.pth"
    path.write_bytes(storages()["one storage of every type"])
    with pytest.raises(CheckpointError, match="also used as numbers of another type"):
        read_weights(path, strict=False)


def test_tied_weights_are_read(tmp_path):
    """A matrix used twice is no bomb."""
    shared = torch.randn(500, 500)
    torch.save({"a": shared, "b": shared[:100], "c": shared.t()[:150]}, tmp_path / "x.pth")
    state = read_weights(tmp_path / "x.pth").state_dict
    assert torch.equal(state["c"], shared.t()[:150])
    assert state["a"].untyped_storage().data_ptr() == state["b"].untyped_storage().data_ptr()


def test_images_and_classes_within_limits_are_believed(tmp_path, pico):
    from transnext_models.classifier import Classifier

    path = tmp_path / "x.safetensors"
    names = [f"name {index}" for index in range(10)]
    save_file(pico, path, metadata={"img_size": "1024", "class_names": json.dumps(names)})
    loaded = Classifier.load(weights=path)
    assert (loaded.preprocess.size, loaded.labels) == (1024, names)
    save_file(pico, path, metadata={"img_size": "1025"})
    with pytest.warns(WeightsWarning, match=r"x\.safetensors: .*img_size is left out.*1025.*1024"):
        assert Classifier.load(weights=path).preprocess.size == 64


def test_narrowing_keeps_what_rounds_to_the_largest_number(tmp_path, pico):
    """65,519 is float16's 65,504; 65,520 is infinite."""
    model = create_model("transnext_pico").half()
    for value, fits in ((65_519.0, True), (65_520.0, False), (-65_520.0, False)):
        state = {name: tensor.float() for name, tensor in pico.items()}
        state["norm1.bias"][0] = value
        torch.save(state, tmp_path / "x.pth")
        if fits:
            load_checkpoint(model, tmp_path / "x.pth")
            assert model.norm1.bias[0] == 65_504
        else:
            with pytest.raises(CheckpointError, match="too large"):
                load_checkpoint(model, tmp_path / "x.pth")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_one_bad_value_is_found_wherever_it_is(dtype, bad):
    """The quick pass over all values misses none, in vectors, remainders and views."""
    for length in (1, 7, 16, 33, 100_003):
        for place in {0, length // 2, length - 1}:
            values = torch.linspace(-1, 1, length).to(dtype)
            assert count_not_finite(values) == 0
            values[place] = bad
            assert count_not_finite(values) == 1
            assert count_not_finite(values.reshape(1, -1).expand(3, -1).t()) == 3
            assert count_not_finite(torch.stack((values, values), 1)[:, 0]) == 1
    assert count_not_finite(torch.zeros(0, dtype=dtype)) == 0
    assert count_not_finite(torch.full((9,), torch.finfo(dtype).max, dtype=dtype)) == 0
