"""A compiled library that is there and cannot be loaded: one warning, with file and reason."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import transnext_ops

pytestmark = pytest.mark.slow  # each starts a Python that imports torch

PACKAGE = Path(transnext_ops.__file__).parent
SUFFIX = EXTENSION_SUFFIXES[0]

# Imports twice over, and asks, in a program that itself imports two modules of the package.
PROGRAM = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import transnext_ops
    import transnext_ops.schema
    from transnext_ops import explain_backend
    explained = explain_backend(device="cpu")
ours = [each for each in caught if "compiled library" in str(each.message)]
print(len(ours))
for each in ours:
    print(each.category.__name__, each.filename)
    print(each.message)
print("--")
print(explained)
"""

Import = Callable[[], tuple[list[str], str]]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A copy of the package without the compiled library."""
    target = tmp_path / "transnext_ops"
    shutil.copytree(PACKAGE, target, ignore=shutil.ignore_patterns("_cpp.*", "__pycache__"))
    return target


@pytest.fixture
def imported(package: Path) -> Import:
    """A function that imports the copy and returns lines about its warnings, and an explanation."""

    def run() -> tuple[list[str], str]:
        program = package.parent / "program.py"
        program.write_text(PROGRAM)
        # The folder of a program comes first on its path.
        result = subprocess.run(
            [sys.executable, program], capture_output=True, text=True, check=False
        )
        assert result.returncode == 0, result.stderr
        warned, _, explained = result.stdout.partition("\n--\n")
        return warned.splitlines(), explained

    return run


def assert_warned(lines: list[str], explained: str, package: Path, name: str, reason: str) -> None:
    assert lines[0] == "1"
    category, file = lines[1].split(maxsplit=1)
    assert category == "RuntimeWarning"
    assert Path(file).name == "program.py", "the warning points at who imports"
    assert str(package / name) in lines[2]
    assert reason in lines[2]
    assert "install transnext-vision again" in lines[2]
    assert "'torch'" in lines[2]
    assert str(package / name) in explained
    assert "runs on backend 'torch'" in explained


def test_a_truncated_file(package: Path, imported: Import) -> None:
    name = f"_cpp{SUFFIX}"
    (package / name).write_bytes(b"\x7fELF\x02\x01\x01" + bytes(20))
    assert_warned(*imported(), package, name, "file too short")


def test_an_empty_file(package: Path, imported: Import) -> None:
    name = f"_cpp{SUFFIX}"
    (package / name).touch()
    assert_warned(*imported(), package, name, "file too short")


def test_a_file_that_may_not_be_a_library(package: Path, imported: Import) -> None:
    name = f"_cpp{SUFFIX}"
    (package / name).write_text("version https://git-lfs.github.com/spec/v1\n" * 40)
    assert_warned(*imported(), package, name, "invalid ELF header")


@pytest.mark.skipif(sys.platform != "linux", reason="names files as Linux does")
def test_the_library_of_another_python(package: Path, imported: Import) -> None:
    name = "_cpp.cpython-39-x86_64-linux-gnu.so"
    (package / name).touch()
    assert_warned(*imported(), package, name, f"is for another Python, this one loads _cpp{SUFFIX}")


@pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")
def test_a_library_with_a_missing_symbol(package: Path, imported: Import) -> None:
    """What gcc makes of C++ without libstdc++: linked without a complaint, not loadable."""
    name = f"_cpp{SUFFIX}"
    source = package.parent / "module.c"
    source.write_text(
        "extern int missing_runtime(void);\n"
        "void* PyInit__cpp(void) { missing_runtime(); return 0; }\n"
    )
    command = ["gcc", "-shared", "-fPIC", "-Wl,-z,now", source, "-o", package / name]
    subprocess.run(command, check=True)
    assert_warned(*imported(), package, name, "undefined symbol: missing_runtime")


def test_no_library_at_all_is_a_way_to_install(package: Path, imported: Import) -> None:
    """A checkout that nobody built: said where somebody asks, not at import."""
    lines, explained = imported()
    assert lines == ["0"]
    assert "runs on backend 'torch'" in explained
    assert "pip install ." in explained


def test_the_library_that_is_there_is_no_reason_to_warn(imported: Import, package: Path) -> None:
    built = list(PACKAGE.glob(f"_cpp{SUFFIX}"))
    if not built:
        pytest.skip("needs the compiled library")
    shutil.copy(built[0], package)
    lines, explained = imported()
    assert lines == ["0"]
    assert "runs on backend 'cpp'" in explained
