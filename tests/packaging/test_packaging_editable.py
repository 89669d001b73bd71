"""CONTRIBUTING's editable install, in a virtual environment of its own, runs the tests.

It takes all that it needs from the interpreter that runs this test, so nothing is downloaded.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from requirements import needs

ROOT = Path(__file__).resolve().parents[2]
# Names by which a package is found, the compiled library, the finder of timm, and the sources that
# the package reads: what an editable install answers differently.
TESTS = (
    "tests/models/test_model_timm_interface.py",
    "tests/ops/test_ops_backends.py",
    "tests/cpp/test_cpp_levels.py",
    "tests/reference/test_reference_imports.py",
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="needs the sources"),
    *needs("pip", "scikit-build-core", "pybind11"),
]


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of a virtual environment with this checkout in editable form."""
    folder = tmp_path_factory.mktemp("editable") / "venv"
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    # Appended to the path, so behind the editable install; .pth files there are not read, which
    # would put the packages of another editable install first.
    shared = dict.fromkeys(path for path in sys.path if path.endswith("site-packages"))
    shared[sysconfig.get_path("purelib")] = None
    Path(packages, "shared.pth").write_text("\n".join(shared))
    # Compiled fast rather than well, apart from the checkout's own builds.
    options = [
        f"--config-settings=build-dir={folder.parent / 'build'}",
        "--config-settings=cmake.define.TRANSNEXT_CUDA=OFF",
        "--config-settings=cmake.define.CMAKE_CXX_FLAGS_RELEASE=-O0",
    ]
    done = subprocess.run(
        [
            python, "-m", "pip", "install", "--quiet", "--no-build-isolation", "--no-deps",
            "--no-index", *options, "--editable", ROOT,
        ],
        env=_environment(folder), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return python


def _environment(folder: Path) -> dict[str, str]:
    """Programs of this interpreter's packages (CMake, Ninja) stay on the path."""
    path = (folder / "bin", Path(sys.executable).parent, sysconfig.get_path("scripts"))
    without = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**without, "PATH": os.pathsep.join([*map(str, path), os.environ["PATH"]])}


def test_the_packages_come_from_the_checkout(editable: Path, tmp_path: Path) -> None:
    code = (
        "import transnext_models, transnext_ops._cpp as library\n"
        "print(transnext_models.__file__, library.__file__)"
    )
    models, library = subprocess.run(
        [editable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert Path(models) == ROOT / "python" / "transnext_models" / "__init__.py"
    assert editable.parents[1] in Path(library).parents


def test_its_tests_pass(editable: Path) -> None:
    done = subprocess.run(
        [editable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS],
        cwd=ROOT, env=_environment(editable.parents[1]), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-3000:]
