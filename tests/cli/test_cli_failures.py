"""What every command does where it fails: one line for people, JSON for programs that asked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from killed_ranks import finds_processes, has_open
from transnext_models.checkpoints.errors import escaped
from transnext_models.classification import classifier as classifier_module
from transnext_models.classifier import Classified, Prediction
from transnext_models.cli import classify as command
from transnext_models.cli.application import app
from transnext_models.cli.console import as_json, note, print_rows, report_error
from transnext_models.cli.image_files import left_out_remark, print_skipped
from transnext_models.images import ImageError
from transnext_models.images.found import LeftOut

MAIN = "from transnext_models.cli import main; main()"
posix = pytest.mark.skipif(os.name != "posix", reason="names and signals of POSIX")

# What moves the cursor, turns writing round, ends lines, is invisible, or is no text.
HOSTILE = [
    "a\nb",
    "a\r\x1b[2Kb",
    "a\x1b]0;title\x07b",
    "a\u202egnp.b",
    "a\u2066b\u2069",
    "a\u2028b\u2029c",
    "a\u200b\ufeff\u00adb",
    "a\x9b31mb",
    "a\tb\x7f",
    "a\udcffb",
    "[red]a[/red] :smile: \\[b]",
    "\U000e0041b",
]


@pytest.fixture
def image(tmp_path) -> Path:
    path = tmp_path / "x.png"
    Image.new("RGB", (40, 40)).save(path)
    return path


def is_one_line(text: str) -> bool:
    categories = {unicodedata.category(char) for char in text}
    return categories.isdisjoint({"Cc", "Cf", "Cs", "Zl", "Zp"})


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", HOSTILE)
def test_shown_text_is_escaped(text):
    shown = escaped(text)
    assert is_one_line(shown)
    plain = "".join(char for char in text if is_one_line(char))
    assert [char for char in shown if char in plain][:1] == [plain[0]]
    assert escaped("naïve 写真 🦀 é.png") == "naïve 写真 🦀 é.png"


def console_text(capsys: pytest.CaptureFixture[str]) -> str:
    out, err = capsys.readouterr()
    return out + err


@pytest.mark.parametrize("text", HOSTILE)
def test_everything_prints_on_one_line(capsys, text):
    """Notes, errors, rows, results and what was skipped or left out."""
    note(text)
    report_error(text)
    print_rows([(text, "x")])
    print_skipped(ImageError(text, f"because {text}"), Console())
    note(left_out_remark([LeftOut("hidden", 1, [Path(text)]), LeftOut(f"of suffix {text}", 2)]))
    result = Classified(Path(text), (Prediction(0, text, 1.0),), 0.1)
    command._print_result(result, Console())
    lines = console_text(capsys).split("\n")
    assert len(lines) == 9  # two for the result, and an empty one after it
    assert all(is_one_line(line) for line in lines)
    if text.startswith("[red]"):
        assert sum("[red]a[/red] :smile: \\[b]" in line for line in lines) == 7


@posix
@pytest.mark.parametrize("name", [name for name in HOSTILE if "/" not in name])
def test_names_of_files(transnext, tmp_path, image, name):
    """In text on one line, in JSON as they are."""
    good, bad = tmp_path / f"{name}.png", tmp_path / f"{name}-bad.png"
    good.write_bytes(image.read_bytes())
    bad.write_bytes(b"")
    code, out, err = transnext("classify", good, bad, "--top-k", 1)
    assert code == 1
    assert escaped(f"{name}.png") in out
    assert escaped(f"{name}-bad.png: an empty file") in err
    assert all(is_one_line(line) for line in (out + err).split("\n"))
    assert len(out.split("\n")) == 4
    _, out, _ = transnext("classify", good, bad, "--json")
    document = json.loads(out)
    assert out.isascii()
    assert document["images"][0]["file"] == str(good)
    assert os.fsencode(document["skipped"][0]["file"]) == os.fsencode(bad)


@posix
def test_names_in_errors(transnext, image, tmp_path):
    weights = tmp_path / "w\nerror: forged\x1b[2J.pth"
    weights.write_bytes(b"<html>")
    code, out, err = transnext("classify", image, "--weights", weights)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1
    assert r"w\nerror: forged\x1b[2J.pth" in err
    code, _, err = transnext("classify", image, "--model", "\x1b[2J\nmodel")
    assert code == 2
    assert "\x1b" not in err
    code, _, err = transnext("classify", "--\x1b[2J")
    assert code == 2
    assert "\x1b" not in err


def test_labels_of_weights(transnext, image, tmp_path):
    """A file of weights may say how its classes are called."""
    from safetensors.torch import save_file

    from transnext_models import create_model

    labels = ["a\x1b[2J\nb", "\u202ec", "[bold]d"]
    network = create_model("transnext_pico", num_classes=3)
    metadata = {"class_names": json.dumps(labels)}
    save_file(network.state_dict(), tmp_path / "x.safetensors", metadata=metadata)
    arguments = ("classify", image, "--weights", tmp_path / "x.safetensors")
    _, out, _ = transnext(*arguments)
    assert len(out.split("\n")) == 6
    for label in (r"a\x1b[2J\nb", r"\u202ec", "[bold]d"):
        assert label in out
    _, out, _ = transnext(*arguments, "--json")
    (result,) = json.loads(out)["images"]
    assert sorted(entry["label"] for entry in result["predictions"]) == sorted(labels)


def test_left_out_is_short(capsys):
    groups = [LeftOut(f"of suffix .{index}", index) for index in range(1, 9)]
    groups.append(LeftOut("hidden", 20, [Path(f".{index}") for index in range(20)]))
    assert left_out_remark(groups) == (
        "left out: 20 hidden (.0, .1, .2, …), 8 of suffix .8, 7 of suffix .7, 6 of suffix .6, "
        "5 of suffix .5, 10 of other kinds"
    )


def test_left_out_is_told(transnext, image, tmp_path):
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / ".hidden.png").write_bytes(b"x")
    code, out, err = transnext("classify", tmp_path, "--json")
    assert code == 0
    assert "left out: 1 of suffix .txt, 1 hidden (" in err or "left out: 1 hidden (" in err
    assert sorted(json.loads(out)["left_out"], key=lambda group: group["reason"]) == [
        {"reason": "hidden", "count": 1, "files": [str(tmp_path / ".hidden.png")]},
        {"reason": "of suffix .txt", "count": 1, "files": []},
    ]


# -- JSON -----------------------------------------------------------------------------------------


def strict(text: str) -> Any:
    """The document, if it is one by the letter: Python's own reader takes NaN too."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_numbers_that_json_has_not(capsys):
    as_json({"a": [float("nan"), float("inf"), 1.5], "b": (-float("inf"), "NaN")})
    assert strict(capsys.readouterr().out) == {"a": [None, None, 1.5], "b": [None, "NaN"]}


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("classify", "IMAGE", "--weights", "missing.pth"), 1, "missing.pth"),
        (("classify", "IMAGE", "--weights", "PAGE"), 1, "page.pth: a web page"),
        (("classify", "IMAGE", "--model", "transnext_tinny"), 2, "did you mean transnext_tiny"),
        (("classify", "IMAGE", "--device", "cuda:77"), 2, "torch sees"),
        (("classify",), 2, "give image files"),
        (("classify", "IMAGE", "--batch-size", "0"), 2, "--batch-size"),
        (("classify", "IMAGE", "--no-such-option"), 2, "No such option"),
        (("info", "--no-such-option"), 2, "No such option"),
        (("models", "surplus"), 2, "surplus"),
        (("clasify",), 2, "clasify"),
    ],
)
def test_a_failure_is_json_too(transnext, image, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "page.pth").write_text("<html>Sign in</html>")
    arguments = [{"IMAGE": image, "PAGE": tmp_path / "page.pth"}.get(a, a) for a in arguments]
    as_text = transnext(*arguments)
    outcome = transnext(*arguments, "--json")
    assert (as_text.code, as_text.out) == (code, "")
    assert (outcome.code, outcome.err) == (code, as_text.err)
    assert message in strict(outcome.out)["error"]
    assert message in " ".join(outcome.err.replace("│", " ").split())


def test_json_is_not_printed_unasked(transnext, image):
    """A file may be called so, and some commands have no such option."""
    assert transnext("convert", "--json").out == ""
    code, out, _ = transnext("classify", "--batch-size", "0", "--", "--json")
    assert (code, out) == (2, "")


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RuntimeError("the device is gone"), 1),
        (ZeroDivisionError("odd"), 1),
        (OSError("the disk is gone"), 1),
        (KeyboardInterrupt(), 130),
    ],
)
def test_what_there_was_is_kept(transnext, image, tmp_path, monkeypatch, error, code):
    """Images classified before the failure are in the document, once."""
    classify = classifier_module.Classifier.classify

    def failing(self: Any, *arguments: Any, **options: Any) -> Any:
        yield from classify(self, *arguments, **options)
        raise error

    monkeypatch.setattr(classifier_module.Classifier, "classify", failing)
    outcome = transnext("classify", image, tmp_path / "missing.png", "--json")
    document = strict(outcome.out)
    assert outcome.code == code
    assert [entry["file"] for entry in document["images"]] == [str(image)]
    assert [entry["error"] for entry in document["skipped"]] == ["no such file or folder"]
    assert (str(error) or "interrupted") in document["error"]
    # The next one starts anew.
    monkeypatch.undo()
    assert "error" not in strict(transnext("classify", image, "--json").out)
    assert list(strict(transnext("info", "--json", "--nope").out)) == ["error"]


def test_debug_shows_the_traceback_and_json(image, monkeypatch, capsys):
    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError("odd")

    monkeypatch.setattr(classifier_module.Classifier, "load", broken)
    with pytest.raises(ZeroDivisionError):
        app(["classify", str(image), "--json", "--debug"], prog_name="transnext")
    assert "odd" in strict(capsys.readouterr().out)["error"]


@pytest.mark.parametrize("name", ["info", "models"])
def test_other_commands(transnext, monkeypatch, name):
    from transnext_models.cli import info, models

    def broken(*arguments: object) -> None:
        raise RuntimeError("cannot be said")

    monkeypatch.setattr(info, "collect", broken)
    monkeypatch.setattr(models, "_entry", broken)
    code, out, err = transnext(name, "--json")
    assert code == 1
    assert strict(out) == {"error": "cannot be said"}
    assert err == "error: cannot be said\n"


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, arguments)],
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
    )


@finds_processes
@pytest.mark.slow
def test_interrupted_while_it_waits(tmp_path, image):
    """Ctrl-C ends a run that waits for a pipe: one document, the exit code of a shell."""
    os.mkfifo(tmp_path / "pipe")
    # The other end stays open, so that the command waits for as long as it takes.
    other = os.open(tmp_path / "pipe", os.O_RDWR)
    process = start(
        "classify", image, tmp_path / "pipe", "--batch-size", 1, "--json",
        # A shell lets what it starts in the background ignore this, and all that is started there.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    while not has_open(process.pid, tmp_path / "pipe"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=90)
    os.close(other)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert strict(out)["error"] == "interrupted"


@posix
@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("info", "--json"), ("models", "--json"), ("models",)])
def test_outputs_that_take_nothing(arguments):
    """A full disk is an error; a reader that has left is none of ours. Neither is Python's."""
    with open("/dev/full", "w") as full:
        process = start(*arguments, stdout=full)
        _, err = process.communicate(timeout=90)
    assert process.returncode == 1
    assert "No space left on device" in err
    assert "Exception ignored" not in err
    process = start(*arguments)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    err = process.stderr.read()
    assert process.wait(timeout=90) == 141
    assert "Exception ignored" not in err
    assert "Traceback" not in err
