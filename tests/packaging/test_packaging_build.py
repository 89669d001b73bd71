"""The source distribution builds from itself, and the wheel has what a user needs."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from requirements import needs

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (ROOT / "CMakeLists.txt").exists(), reason="needs the sources"),
    *needs("build", "scikit-build-core", "pybind11"),
]


def build(source: Path, target: Path, kind: str, *settings: str) -> Path:
    """Build with what is installed here, so that nothing is downloaded; return the one result."""
    options = [f"--config-setting={setting}" for setting in settings]
    result = subprocess.run(
        [
            sys.executable, "-m", "build", kind, "--no-isolation", "--outdir", target,
            *options, source,
        ],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    (path,) = target.iterdir()
    return path


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory) -> Path:
    """The source distribution of this checkout, unpacked somewhere else."""
    target = tmp_path_factory.mktemp("sdist")
    archive = build(ROOT, target, "--sdist")
    with tarfile.open(archive) as opened:
        opened.extraction_filter = getattr(tarfile, "data_filter", None)  # not in old Pythons
        opened.extractall(target / "unpacked")
    (folder,) = (target / "unpacked").iterdir()
    return folder


@pytest.fixture(scope="module")
def wheel(unpacked_sdist: Path, tmp_path_factory) -> Path:
    """A wheel from the unpacked source distribution, CPU kernels only."""
    target = tmp_path_factory.mktemp("wheel")
    # Compiled fast rather than well, and not for all processors: what it does is tested on the
    # installed library.
    settings = (
        "cmake.define.TRANSNEXT_CUDA=OFF",
        "cmake.define.TRANSNEXT_WERROR=ON",
        "cmake.define.TRANSNEXT_CPU_LEVELS=avx2",
        "cmake.define.CMAKE_CXX_FLAGS_RELEASE=-O1",
    )
    return build(unpacked_sdist, target, "--wheel", *settings)


def test_the_sdist_has_what_it_needs_and_no_build_results(unpacked_sdist: Path) -> None:
    files = {str(path.relative_to(unpacked_sdist)) for path in unpacked_sdist.rglob("*")}
    needed = (
        "LICENSE", "README.md", "pyproject.toml", "CMakeLists.txt", "cpp/bindings/module.cpp",
        "cpp/cmake/CpuLevels.cmake", "cpp/cuda/compiled/gelu_pool.cu",
        "cpp/cuda/kernels/pool/gelu_pool.cuh",
        "cpp/include/transnext/tensor.h", "python/transnext_ops/__init__.py",
        "python/transnext_models/py.typed", "reference/transnext_reference/__init__.py",
        "tests/conftest.py", "tests/packaging/test_packaging_build.py",
    )  # fmt: skip
    assert [name for name in needed if name not in files] == []
    unwanted = (".so", ".o", ".pyc", ".egg-info")
    assert [name for name in files if name.endswith(unwanted) or name.startswith("build/")] == []


def test_the_wheel_has_what_a_user_needs(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    extensions = [name for name in names if name.endswith(".so")]
    assert len(extensions) == 1
    assert extensions[0].startswith("transnext_ops/_cpp.")
    needed = (
        "transnext_ops/__init__.py", "transnext_ops/py.typed", "transnext_models/__init__.py",
        "transnext_models/py.typed", "transnext_models/assets/transnext_pico.safetensors",
        "transnext_reference/__init__.py", "transnext_reference/py.typed",
        "transnext_ops/kernels/cuda/kernels/pool/gelu_pool.cuh",
        "transnext_ops/kernels/cuda/instances/gelu_pool.inc",
        "transnext_ops/kernels/include/transnext/tensor.h",
    )  # fmt: skip
    assert [name for name in needed if name not in names] == []
    top = {name.split("/")[0] for name in names}
    packages = {"transnext_ops", "transnext_models", "transnext_reference"}
    assert packages < top
    assert [name for name in top - packages if not name.endswith(".dist-info")] == []
    assert wheel.stat().st_size < 8e6


def test_the_wheels_library_runs_on_its_own(wheel: Path, tmp_path: Path) -> None:
    """The extension needs neither torch nor NumPy nor the packages around it."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".so"))
        extension = archive.extract(name, tmp_path)
    code = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("_cpp", {extension!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert not {{"torch", "numpy"}} & set(sys.modules)
assert module.cuda_architectures is None
print(module.__version__, module.cpu_level())
"""
    output = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert output[0] == wheel.name.split("-")[1]
    assert output[1] in ("baseline", "avx2", "avx512", "avx512_bf16", "amx_bf16")


def test_the_wheel_finds_its_kernels_source(wheel: Path, tmp_path: Path) -> None:
    """What CuPy compiles comes from the package itself, complete."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    code = """
import importlib.util, sys
from pathlib import Path
path = Path(sys.argv[1]) / "transnext_ops" / "backends" / "kernel_sources.py"
spec = importlib.util.spec_from_file_location("kernel_sources", path)
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
(folder, _) = module.folders()
assert folder == Path(sys.argv[1]) / "transnext_ops" / "kernels"
for names in module.kernel_names().values():
    print(*names, sep="\\n")
"""
    output = subprocess.run(
        [sys.executable, "-I", "-c", code, tmp_path], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "gelu_pool_forward<Half>" in output
    kernels = tmp_path / "transnext_ops" / "kernels"
    shipped = {str(path.relative_to(kernels)) for path in kernels.rglob("*.*")}
    cpp = ROOT / "cpp"
    sources = {
        str(path.relative_to(cpp))
        for folder in ("cuda/kernels", "cuda/instances", "include/transnext")
        for path in (cpp / folder).rglob("*.*")
    }
    assert shipped == sources


@pytest.mark.skipif(shutil.which("nm") is None, reason="needs nm")
def test_no_code_is_shared_between_instruction_sets(wheel: Path, unpacked_sdist: Path) -> None:
    """A function that several object files define, of which the linker keeps one, could be the copy
    with instructions that the processor lacks: all code of a level must carry the level's name."""
    objects = list((unpacked_sdist / "build").rglob("*transnext_cpu_avx2*/**/*.o"))
    if not objects:
        pytest.skip("this processor family has one instruction set")
    listing = subprocess.run(
        ["nm", "-C", *map(str, objects)], capture_output=True, text=True, check=True
    ).stdout
    weak = [line.split(" ", 2) for line in listing.splitlines() if line[17:18] in ("W", "V")]
    shared = [name for _, _, name in weak if "transnext::cpu::avx2" not in name]
    assert {name for name in shared if not name.startswith("DW.ref.")} == set()
