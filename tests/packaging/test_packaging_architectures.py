"""Which GPUs the CUDA kernels are compiled for: CMake's choice, without a GPU or a compiler."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SEARCH = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", "")))
CMAKE = shutil.which("cmake", path=SEARCH)

pytestmark = [
    pytest.mark.skipif(CMAKE is None, reason="needs cmake"),
    pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="needs the sources"),
]

KNOWN = (75, 80, 86, 87, 88, 89, 90, 100, 103, 110, 120, 121)  # of nvcc 13.0
ALL = "75-real 80-real 86-real 90-real 100-real 120-real 120-virtual"


class Chooser:
    """Runs transnext_choose_architectures beside an nvcc and an nvidia-smi that pretend."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.nvcc = self._script("nvcc", "".join(f"echo sm_{number}\n" for number in KNOWN))

    def smi(self, output: str, status: int = 0) -> Chooser:
        """Say what nvidia-smi prints, and its exit status."""
        printed = "".join(f"echo '{line}'\n" for line in output.split("\n"))
        self._script("nvidia-smi", f"{printed}exit {status}")
        return self

    def run(self, chosen: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        script = self.folder / "choose.cmake"
        modules = ROOT / "cpp" / "cmake"
        script.write_text(
            f'cmake_minimum_required(VERSION 3.24)\ninclude("{modules}/CudaArchitectures.cmake")\n'
            f'set(CMAKE_CUDA_ARCHITECTURES "{chosen}")\n'
            f'transnext_choose_architectures("{self.nvcc}")\n'
            'list(JOIN CMAKE_CUDA_ARCHITECTURES " " chosen)\n'
            'message("${chosen}|${transnext_architectures_reason}")\n'
        )
        inherited = {name: text for name, text in os.environ.items() if name != "CUDAARCHS"}
        return subprocess.run(
            [
                str(CMAKE), "-DCMAKE_FIND_USE_CMAKE_SYSTEM_PATH=OFF",
                "-DCMAKE_FIND_USE_SYSTEM_ENVIRONMENT_PATH=ON", "-P", str(script),
            ],
            capture_output=True, text=True, check=False,
            env={**inherited, "PATH": f"{self.folder}", **environment},
        )  # fmt: skip

    def choice(self, chosen: str = "", **environment: str) -> tuple[str, str]:
        result = self.run(chosen, **environment)
        assert result.returncode == 0, result.stderr
        architectures, reason = result.stderr.strip().split("|")
        return architectures, reason

    def complaint(self, chosen: str = "", **environment: str) -> str:
        result = self.run(chosen, **environment)
        assert result.returncode != 0, result.stderr
        return " ".join(result.stderr.split())

    def _script(self, name: str, text: str) -> Path:
        path = self.folder / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path


@pytest.fixture
def chooser(tmp_path: Path) -> Chooser:
    return Chooser(tmp_path)


@pytest.mark.parametrize(
    ("shown", "architectures", "whose"),
    [
        ("8.6", "86-real 86-virtual", "the GPU of this machine"),
        ("8.0\n8.0\n8.0", "80-real 80-virtual", "the GPU of this machine"),
        ("9.0\n8.0", "80-real 90-real 90-virtual", "the GPUs of this machine"),
        ("10.0\n8.9\r", "89-real 100-real 100-virtual", "the GPUs of this machine"),
        ("12.0\n[N/A]", "120-real 120-virtual", "the GPU of this machine"),
        ("6.1\n8.6", "86-real 86-virtual", "the GPUs of this machine"),
        # Not known to this nvcc: the code of an earlier minor version runs, else PTX does.
        ("12.6", "121-real 121-virtual", "the GPU of this machine"),
        ("13.0", "121-virtual", "the GPU of this machine"),
    ],
)
def test_the_gpus_of_this_machine(
    chooser: Chooser, shown: str, architectures: str, whose: str
) -> None:
    assert chooser.smi(shown).choice() == (
        architectures,
        f"{whose}; -DCMAKE_CUDA_ARCHITECTURES=... chooses",
    )


@pytest.mark.parametrize(
    ("shown", "status", "why"),
    [
        ("", 0, "nvidia-smi shows no GPU"),
        ("[N/A]", 0, "nvidia-smi shows no GPU"),
        ('Field "compute_cap" is not a valid field to query.', 2, "nvidia-smi fails: 2"),
        ("NVIDIA-SMI has failed because it could not reach the driver.", 9, "nvidia-smi fails: 9"),
        ("6.1", 0, "the kernels do not run on the GPUs of this machine (61)"),
    ],
)
def test_all_where_none_is_visible(chooser: Chooser, shown: str, status: int, why: str) -> None:
    assert chooser.smi(shown, status).choice() == (
        ALL,
        f"all that there are, since {why}; -DCMAKE_CUDA_ARCHITECTURES=... chooses",
    )


@pytest.mark.skipif(Path("/usr/lib/wsl/lib/nvidia-smi").exists(), reason="WSL has nvidia-smi")
def test_all_where_there_is_no_nvidia_smi(chooser: Chooser) -> None:
    architectures, reason = chooser.choice()
    assert architectures == ALL
    assert "there is no nvidia-smi" in reason


def test_a_choice_comes_before_what_is_visible(chooser: Chooser) -> None:
    chooser.smi("8.6")
    assert chooser.choice("80;90-real") == ("80 90-real", "as CMAKE_CUDA_ARCHITECTURES says")
    assert chooser.choice(CUDAARCHS="75-real") == ("75-real", "as CUDAARCHS says")
    assert chooser.choice("all")[0] == ALL
    assert chooser.choice("all-major")[0] == (
        "75-real 80-real 90-real 100-real 120-real 120-virtual"
    )
    assert chooser.choice("native")[0] == "86-real 86-virtual"


def test_native_needs_a_gpu(chooser: Chooser) -> None:
    complaint = chooser.smi("", 9).complaint("native")
    assert (
        "=native, but no GPU that the kernels run on is visible: nvidia-smi fails: 9" in complaint
    )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ("ampere", "got 'ampere', needs numbers as in 80;90-real;100-virtual, or native, all or"),
        ("80;", "got '', needs numbers"),
        ("61", "got '61', the kernels need 75 or newer"),
        ("130", "got '130', "),
        ("80-fake", "got '80-fake', needs numbers"),
    ],
)
def test_a_choice_that_makes_no_sense(chooser: Chooser, chosen: str, message: str) -> None:
    assert message in chooser.complaint(chosen)


def options(folder: Path, architectures: str, function: str = "generate_code") -> list[str]:
    """Return nvcc's options for a list of architectures, without what all of them begin with."""
    script = folder / "options.cmake"
    script.write_text(
        f'include("{ROOT}/cpp/cmake/CudaArchitectures.cmake")\n'
        f'transnext_{function}("{architectures}" options)\n'
        'message("${options}")\n'
    )
    done = subprocess.run(
        [str(CMAKE), "-P", str(script)], capture_output=True, text=True, check=True
    )
    return [one.removeprefix("--generate-code=arch=") for one in done.stderr.strip().split(";")]


@pytest.mark.parametrize(
    ("architectures", "expected"),
    [
        (
            ALL,
            "75,[sm_75] 80,[sm_80] 80,[sm_86] 80,[sm_90] 80,[sm_100] 80,[sm_120] 80,[compute_80]",
        ),
        ("80", "80,[sm_80] 80,[compute_80]"),
        ("75-real 75-virtual", "75,[sm_75] 75,[compute_75]"),
        ("120-real 89-real 120-virtual", "89,[sm_120] 89,[sm_89] 89,[compute_89]"),
        ("90a-real 100 100f", "90a,[sm_90a] 100,[sm_100] 100,[compute_100] 100f,[sm_100f] 100f,"),
    ],
)
def test_one_ptx_serves_all_from_80_on(tmp_path: Path, architectures: str, expected: str) -> None:
    made = options(tmp_path, architectures.replace(" ", ";"))
    short = [one.removeprefix("compute_").replace("code=", "") for one in made]
    assert " ".join(short).startswith(expected)
    real = [one.removesuffix("-real") for one in architectures.split() if "-virtual" not in one]
    assert [one.split("sm_")[1][:-1] for one in made if "sm_" in one] == real


def test_multiprocessors_of_fewer_threads_have_a_ptx_of_their_own(tmp_path: Path) -> None:
    made = options(tmp_path, ALL.replace(" ", ";"), "generate_code_by_threads")
    short = " ".join(one.removeprefix("compute_").replace("code=", "") for one in made)
    assert short == (
        "75,[sm_75] 80,[sm_80] 80,[sm_90] 80,[sm_100] 86,[sm_86] 86,[sm_120] 86,[compute_86]"
    )
    assert options(tmp_path, "90-real", "generate_code_by_threads") == ["compute_90,code=[sm_90]"]
    assert options(tmp_path, "89-real", "generate_code_by_threads") == ["compute_89,code=[sm_89]"]


def test_architectures_that_share_ptx_are_told_apart_by_register_budgets_alone() -> None:
    header = ROOT / "cpp" / "cuda" / "kernels" / "common" / "multiprocessor.cuh"
    folders = [ROOT / "cpp" / name for name in ("cuda", "include")]
    sources = {path for folder in folders for path in folder.rglob("*.*") if path.is_file()}
    from_80 = [number for number in KNOWN if number >= 80]
    of_all = conditions(sources - {header})
    assert "defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800" in of_all
    for condition in of_all:
        assert len({holds(condition, number) for number in from_80}) == 1, condition
    fewer = {86, 89, 120, 121}
    for condition in conditions({header}):
        for numbers in (fewer, set(from_80) - fewer):
            assert len({holds(condition, number) for number in numbers}) == 1, condition
    readers = [path for path in sources if "multiprocessor.cuh" in path.read_text("utf-8")]
    # The first, in conv_glu.cu, has a PTX for each; of 8.0's registers the second needs no more.
    assert {path.name for path in readers} == {
        "conv_glu_backward.cuh",
        "aggregated_attention_forward.cuh",
    }


def conditions(sources: set[Path]) -> set[str]:
    """Return the conditions of files' preprocessor that ask for the architecture."""
    return {
        line.split(maxsplit=1)[1]
        for path in sources
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.match(r"\s*#\s*(if|elif)\b.*__CUDA_ARCH__", line)
    }


def holds(condition: str, architecture: int) -> bool:
    """Evaluate a condition of the preprocessor, which has nothing but __CUDA_ARCH__ in it."""
    known = {"defined(__CUDA_ARCH__)": "True", "__CUDA_ARCH__": str(10 * architecture)}
    known.update({"&&": " and ", "||": " or ", "!defined": "not defined"})
    for word in ("!defined", *known):
        condition = condition.replace(word, known[word])
    assert re.fullmatch(r"(True|not|and|or|[\d\s<>=()])+", condition), condition
    return bool(eval(condition))
