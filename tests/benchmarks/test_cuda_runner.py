"""The benchmark of devices, on the CPU: everything but CUDA events and cards."""

from __future__ import annotations

import csv
import dataclasses
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.cuda import interleave
from benchmarks.cuda.baselines import baselines_of, flex_attention
from benchmarks.cuda.cases import SUBJECTS, device_cases, sizes_of
from benchmarks.cuda.clock import Clock
from benchmarks.cuda.inputs import attention_inputs
from benchmarks.cuda.interleave import relative_error, run_case
from benchmarks.runner import report
from benchmarks.runner.measure import Result

CPU = torch.device("cpu")


@pytest.fixture
def without_compiler(monkeypatch):
    """torch.compile takes minutes for these shapes; what it compiles is what runs."""
    monkeypatch.setattr(torch, "compile", lambda function: function)


def small(subject: str, direction: str, dtype: str = "float32"):
    case = next(
        c
        for c in device_cases()
        if (c.subject, c.direction, c.dtype) == (subject, direction, dtype)
    )
    size = (64, 96) if subject != "global_attention" else (96, 128)
    return dataclasses.replace(case, batch=2, size=size)


def test_case_names_are_unique():
    names = [case.name for case in device_cases()]
    assert len(names) == len(set(names))


@pytest.mark.usefixtures("without_compiler")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("subject", [*SUBJECTS, "global_attention"])
def test_candidates_agree_and_are_timed(subject, dtype, capsys):
    results = list(run_case(small(subject, "both", dtype), Clock(CPU), runs=2))
    names = [result.candidate.name for result in results]
    assert {"transnext_ops torch", "transnext_ops cpp"} <= set(names)
    assert all(0 < r.low <= r.median <= r.high and r.runs == 2 for r in results)
    told = capsys.readouterr().err
    assert "transnext_ops cupy" in told  # it needs CUDA tensors
    assert "is off by" not in told


def test_models_agree_and_are_timed(capsys):
    case = next(c for c in device_cases() if c.what == "models")
    case = dataclasses.replace(case, batch=2, size=(64, 64))
    names = [result.candidate.name for result in run_case(case, Clock(CPU), runs=1)]
    assert names == ["published", "transnext_models torch", "transnext_models cpp"]
    assert "cupy" in capsys.readouterr().err


def test_a_wrong_candidate_is_told_and_not_timed(monkeypatch, capsys):
    def with_a_wrong_one(*arguments):
        entries = baselines_of(*arguments)
        entries.add("wrong", lambda x: entries.functions["published"](x) * 1.01)
        return entries

    monkeypatch.setattr(interleave, "baselines_of", with_a_wrong_one)
    results = list(run_case(small("gelu_pool", "forward"), Clock(CPU), runs=1))
    assert "wrong" not in [result.candidate.name for result in results]
    assert "wrong: ArithmeticError: the result is off by 1.0e-02" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_attention_computes_pixel_focused_attention():
    case = small("pixel_focused_attention", "forward")
    sizes = sizes_of(case)
    entries = baselines_of(case.subject, sizes, torch.float32, CPU)
    inputs = attention_inputs(sizes, torch.float32, CPU)
    function = flex_attention(inputs, sizes, inputs.pool_bias.dense(), compiled=False)
    with torch.no_grad():
        expected = entries.functions["transnext_ops torch"](*entries.leaves)
        assert relative_error(function(*entries.leaves), expected) < 1e-5


def test_rows_carry_the_cards_name(tmp_path: Path):
    case = small("gelu_pool", "forward")
    results: list[Result] = list(run_case(case, Clock(CPU), runs=1))
    where = report.Machine.of_device("NVIDIA Example 100")
    (path,) = report.write_csv(results, tmp_path, where, "now")
    assert path.name == "operators-float32-nvidia-example-100.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["processor"] for row in rows} == {"NVIDIA Example 100"}
    assert {row["threads"] for row in rows} == {""}


def test_the_command_line(monkeypatch, tmp_path, capsys):
    from benchmarks import run

    def command(*words: str) -> None:
        monkeypatch.setattr(sys, "argv", ["run.py", *words])
        run.main()

    command("--device", "cpu", "--only", "conv_glu stage 3 800x1280", "float32", "--list")
    assert capsys.readouterr().out.splitlines() == [
        "conv_glu stage 3 800x1280 batch 2 float32 forward",
        "conv_glu stage 3 800x1280 batch 2 float32 both",
    ]
    with pytest.raises(SystemExit, match="--only: no case has 'nothing'"):
        command("--device", "cpu", "--only", "nothing")
    with pytest.raises(SystemExit, match="--device: got 'nonsense', needs a torch device"):
        command("--device", "nonsense")
    if not torch.cuda.is_available():
        with pytest.raises(SystemExit, match="torch sees no CUDA device"):
            command("--device", "cuda")
    picture = "gelu_pool stage 3 800x1280 batch 2 float32 forward"
    command("--device", "cpu", "--only", picture, "--runs", "1", "--results", str(tmp_path))
    assert (tmp_path / "operators-float32-cpu.csv").exists()
    assert "transnext_ops cpp" in capsys.readouterr().out
