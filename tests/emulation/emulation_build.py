"""Builds the emulation of the CUDA kernels on demand, from cpp/emulation and cpp/cuda.

One object per source file of the emulation and one per operator (cuda/instances/<operator>.inc),
each named by a hash of everything it is made from, in build/emulation: what has not changed is not
compiled again, and processes that build at once wait for each other instead of compiling it twice.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tools.made_once import made_once

ROOT = Path(__file__).resolve().parents[2]
FLAGS = (
    "-std=c++17", "-O2", "-fPIC", "-fvisibility=hidden", "-fno-strict-aliasing",
    "-ffp-contract=off", "-DTRANSNEXT_EMULATION", "-Wall", "-Wextra", "-Wpedantic", "-Werror",
    "-Wno-unknown-pragmas",  # unroll
    # An index outside an array's bounds and a misaligned access are faults, as out of bounds is.
    "-fsanitize=bounds,alignment", "-fsanitize-undefined-trap-on-error",
)  # fmt: skip
_INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"', re.MULTILINE)


class Emulation:
    """The sources of one emulation: a source tree's `cpp` folder, and kernels beside it for tests.

    Parameters
    ----------
    cpp
        The folder that holds `emulation`, `cuda` and `include`.
    extra_sources
        Further C++ files to compile in.
    operators
        Names of the `.inc` lists, all of `cuda/instances` if None.
    flags
        Further options of the compiler.
    warnings_are_errors
        False for sources that are broken on purpose, in which a variable may be left unused.
    """

    def __init__(
        self,
        cpp: Path = ROOT / "cpp",
        extra_sources: Sequence[Path] = (),
        operators: Sequence[str] | None = None,
        flags: Sequence[str] = (),
        folder: Path = ROOT / "build" / "emulation",
        warnings_are_errors: bool = True,
    ) -> None:
        self.flags = (*FLAGS, *flags)
        self.cpp, self.extra_sources, self.folder = cpp, tuple(extra_sources), folder
        self.includes = (cpp, cpp / "include", ROOT / "tests")
        found = sorted(path.stem for path in (cpp / "cuda" / "instances").glob("*.inc"))
        self.operators = found if operators is None else list(operators)
        self.compiler = os.environ.get("CXX", "g++")
        # No part of an object's name: what compiles either way becomes the same object.
        self.tolerance = () if warnings_are_errors else ("-Wno-error",)

    def build(self) -> Path:
        """Compile what has changed and return the library."""
        runtime = self.cpp / "emulation"
        jobs: list[tuple[Path, list[str]]] = [
            (path, []) for path in sorted(runtime.glob("*.cpp")) if path.stem != "operator"
        ]
        jobs += [(runtime / "operator.cpp", self._defines(name)) for name in self.operators]
        jobs += [(path, []) for path in self.extra_sources]
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            objects = list(pool.map(lambda job: self._compile(*job), jobs))
        key = hashlib.sha256("\n".join(path.name for path in objects).encode()).hexdigest()
        library = self.folder / f"emulation-{key[:16]}.so"
        return made_once(library, lambda part: self._run(["-shared", *map(str, objects)], part))

    def _defines(self, operator: str) -> list[str]:
        kernels = self.cpp / "cuda" / "kernels"
        names = (f"{operator}.cuh", f"{operator}_forward.cuh")
        path = next(path for name in names for path in kernels.rglob(name))
        header = str(path.relative_to(self.cpp))
        return [f"-DTRANSNEXT_OPERATOR={operator}", f"-DTRANSNEXT_HEADER={header}"]

    def _compile(self, source: Path, defines: list[str]) -> Path:
        roots, name = [source], source.stem
        if defines:
            name, header = (define.partition("=")[2] for define in defines)
            roots += [self.cpp / header, self.cpp / "cuda" / "instances" / f"{name}.inc"]
        digest = hashlib.sha256(" ".join((self.compiler, *self.flags, *defines)).encode())
        for path in sorted(self._all_included(roots)):
            digest.update(path.read_bytes())
        target = self.folder / f"{name}-{digest.hexdigest()[:16]}.o"
        folders = [f"-I{folder}" for folder in self.includes]
        options = [*self.flags, *self.tolerance, *defines, *folders, "-c", str(source)]
        return made_once(target, lambda part: self._run(options, part))

    def _run(self, arguments: list[str], target: Path) -> None:
        command = [self.compiler, *arguments, "-o", str(target)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{result.stderr}")

    def _all_included(self, roots: list[Path]) -> set[Path]:
        """Return the files and all that they include by name from this project."""
        found: set[Path] = set()
        left = list(roots)
        while left:
            path = left.pop()
            if path in found:
                continue
            found.add(path)
            for name in _INCLUDE.findall(path.read_text()):
                left += [folder / name for folder in self.includes if (folder / name).exists()][:1]
        return found
