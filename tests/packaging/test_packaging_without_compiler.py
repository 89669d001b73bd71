"""Installing where there is no compiler, or no folder to build in: what happens and is said."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from requirements import needs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "cpp" / "packaging").exists(), reason="needs the sources"),
    *needs("build", "scikit-build-core", "pybind11"),
]

NO_COMPILER = re.compile(r"no C\+\+ compiler was found \([^)]*\bg\+\+[^)]*\)")
LEFT_BEHIND = ("build", ".git", ".venv", "dist", "__pycache__", "_cpp.*.so", ".*_cache", "results")


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A copy of the sources, in a folder whose name has spaces and more than ASCII."""
    target = tmp_path_factory.mktemp("sources") / "Neue Quellen – é"
    shutil.copytree(ROOT, target, ignore=shutil.ignore_patterns(*LEFT_BEHIND, "golden", "shared"))
    return target


@pytest.fixture(scope="module")
def undecided() -> dict[str, str]:
    """An environment with nothing said about compilers and what to build."""
    ours = re.compile(r"CXX|CC$|CUDA|CMAKE|SKBUILD|PYTHON|LIBRARY_PATH")
    return {name: value for name, value in os.environ.items() if not ours.search(name)}


@pytest.fixture(scope="module")
def bare(undecided: dict[str, str], tmp_path_factory) -> dict[str, str]:
    """The same with nothing on PATH."""
    return {**undecided, "PATH": str(tmp_path_factory.mktemp("nothing"))}


def build(
    checkout: Path, target: Path, environment: dict[str, str], *settings: str, hook: str = "wheel"
) -> subprocess.CompletedProcess[str]:
    """Call a hook of the build backend as pip does, from a checkout, without a network."""
    target.mkdir(exist_ok=True)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); import transnext_build as backend\n"
        "settings = dict(word.split('=', 1) for word in sys.argv[4:])\n"
        "print('built', getattr(backend, 'build_' + sys.argv[3])(sys.argv[2], settings))"
    )
    return subprocess.run(
        [
            sys.executable, "-c", code, checkout / "cpp" / "packaging", target, hook,
            *settings,
        ],
        capture_output=True, text=True, check=False, cwd=checkout, env=environment,
    )  # fmt: skip


@pytest.fixture(scope="module")
def fallen_back(checkout: Path, bare, tmp_path_factory) -> tuple[Path, str]:
    """A wheel built without a compiler, and what building it said."""
    target = tmp_path_factory.mktemp("wheel")
    result = build(checkout, target, bare)
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = target.iterdir()
    return wheel, result.stdout


def test_a_pure_python_wheel_and_a_plain_message(fallen_back: tuple[Path, str]) -> None:
    wheel, said = fallen_back
    assert wheel.name.endswith("-py3-none-any.whl")
    assert "transnext: installed without the compiled library: " in said
    assert NO_COMPILER.search(said)
    assert "Backends 'torch' and 'reference' run everything" in said
    assert "-C cmake.define.TRANSNEXT_LIBRARY=ON" in said


def test_its_record_is_complete(fallen_back: tuple[Path, str]) -> None:
    with zipfile.ZipFile(fallen_back[0]) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        (record,) = (name for name in names if name.endswith(".dist-info/RECORD"))
        rows = list(csv.reader(io.StringIO(archive.read(record).decode())))
        sizes = {info.filename: info.file_size for info in archive.infolist()}
    assert sorted(row[0] for row in rows) == sorted(names)
    (note,) = (row for row in rows if row[0].endswith(".dist-info/without_library.txt"))
    assert note[1].startswith("sha256=")
    assert int(note[2]) == sizes[note[0]]
    assert "transnext_models/assets/transnext_pico.safetensors" in names
    assert not [name for name in names if name.endswith((".so", ".pyd"))]


@pytest.fixture(scope="module")
def installed(fallen_back: tuple[Path, str], tmp_path_factory) -> Path:
    """The wheel where pip would unpack it."""
    target = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(fallen_back[0]) as archive:
        archive.extractall(target)
    return target


def python(installed: Path, code: str) -> str:
    """Run code with the installed packages first, every warning an error of ours."""
    code = f"import sys; sys.path.insert(0, {str(installed)!r})\n{code}"
    result = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_what_is_installed_runs_and_knows_the_reason(installed: Path) -> None:
    said = python(
        installed,
        "import torch, transnext_ops as ops\n"
        "from transnext_models.cli.info import collect\n"
        "assert ops.__file__.startswith(sys.path[0]), ops.__file__\n"
        "x = torch.randn(1, 16, 8)\n"
        "for name in ('auto', 'torch', 'reference'):\n"
        "    with ops.use_backend(name):\n"
        "        print(ops.conv_glu(x, torch.ones(4, 1, 3, 3), grid=(4, 4)).shape)\n"
        "print(ops.explain_backend(device='cpu'))\n"
        "print([each['unavailable'] for each in collect()['backends'] if each['name'] == 'cpp'])\n",
    )
    assert said.count("torch.Size([1, 16, 4])") == 3
    assert "runs on backend 'torch'" in said
    assert len(NO_COMPILER.findall(said)) >= 2  # explain_backend and transnext info
    assert "transnext-vision was installed without the compiled library" in said


def test_on_insists(checkout: Path, bare, tmp_path: Path) -> None:
    for setting in ("TRANSNEXT_LIBRARY=ON", "TRANSNEXT_CUDA=ON"):
        result = build(checkout, tmp_path / "wheel", bare, f"cmake.define.{setting}")
        assert result.returncode == 1
        assert "transnext: the compiled library was asked for, but no C++ compiler" in result.stderr
        assert "Traceback" not in result.stderr
        assert list((tmp_path / "wheel").iterdir()) == []


def test_on_from_the_environment(checkout: Path, bare, tmp_path: Path) -> None:
    environment = {**bare, "CMAKE_ARGS": "-DX=1 -DTRANSNEXT_LIBRARY:STRING=ON"}
    result = build(checkout, tmp_path / "wheel", environment)
    assert result.returncode == 1
    assert "the compiled library was asked for" in result.stderr


def test_off_leaves_it_out_with_a_compiler(checkout: Path, undecided, tmp_path: Path) -> None:
    setting = "cmake.define.TRANSNEXT_LIBRARY=OFF"
    result = build(checkout, tmp_path / "wheel", undecided, setting)
    assert result.returncode == 0, result.stderr
    (wheel,) = (tmp_path / "wheel").iterdir()
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (note,) = (name for name in archive.namelist() if name.endswith("without_library.txt"))
        assert archive.read(note) == b"TRANSNEXT_LIBRARY=OFF\n"


def test_another_word_is_an_error(checkout: Path, bare, tmp_path: Path) -> None:
    setting = "cmake.define.TRANSNEXT_LIBRARY=perhaps"
    result = build(checkout, tmp_path / "wheel", bare, setting)
    assert result.returncode == 1
    assert "TRANSNEXT_LIBRARY must be AUTO, ON or OFF, got 'perhaps'" in result.stderr


def test_an_editable_install_has_the_note_too(checkout: Path, bare, tmp_path: Path) -> None:
    result = build(checkout, tmp_path / "wheel", bare, hook="editable")
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,) = (tmp_path / "wheel").iterdir()
    with zipfile.ZipFile(wheel) as archive:
        (note,) = (name for name in archive.namelist() if name.endswith("without_library.txt"))
        assert NO_COMPILER.match(archive.read(note).decode())


# -- a checkout that cannot be written ------------------------------------------------------------


@pytest.fixture
def not_writable(checkout: Path) -> Iterator[Path]:
    """The checkout, with a file where its build folder would be made: refused to root as well."""
    (checkout / "build").touch()
    yield checkout
    (checkout / "build").unlink()


def has_compiler() -> bool:
    return any(shutil.which(name) for name in ("g++", "clang++"))


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
def test_a_build_folder_that_cannot_be_made_is_named(
    not_writable: Path, undecided, tmp_path: Path
) -> None:
    result = build(not_writable, tmp_path / "wheel", undecided)
    assert result.returncode == 1
    assert f"cannot write to {not_writable / 'build'}" in result.stderr
    assert "-C build-dir=" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.skipif(not has_compiler(), reason="needs a C++ compiler")
@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="needs users")
def test_a_checkout_of_another_user(checkout: Path, tmp_path: Path) -> None:
    checkout.chmod(0o555)
    command = [] if os.geteuid() else ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    if command and shutil.which(command[0]) is None:
        pytest.skip("root may write everywhere, and there is no setpriv")
    try:
        target = tmp_path / "wheel"
        target.mkdir()
        result = subprocess.run(
            [
                *command, sys.executable, "-c",
                "import sys; sys.path.insert(0, 'cpp/packaging'); import transnext_build\n"
                "transnext_build.build_wheel(sys.argv[1])", target,
            ],
            capture_output=True, text=True, check=False, cwd=checkout,
        )  # fmt: skip
    finally:
        checkout.chmod(0o755)
    assert result.returncode == 1, result.stdout
    assert "cannot write to " in result.stderr
    assert "-C build-dir=" in result.stderr
    assert "Traceback" not in result.stderr
