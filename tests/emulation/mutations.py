"""Breaks the kernels in one place after the other, and shows that the emulated tests notice.

    python tests/emulation/mutations.py [--only WORD ...] [--list]

Each mutation of mutation_list.py is applied to a copy of `cpp`, whose emulation is built and put to
test_emulated_agreement.py and test_emulated_maps.py; a run that passes has overlooked it. Prints a
line per mutation and exits with 1 if one was overlooked. That every text still stands once in its
file is a test of its own (test_mutations.py).
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from mutation import Mutation
from mutation_list import MUTATIONS

ROOT = Path(__file__).resolve().parents[2]
TESTS = ("agreement", "maps")
LONGEST = 300  # seconds of processor time; a kernel that never ends is noticed too


def verdict(mutation: Mutation | None, tests: str) -> str | None:
    """Say how the tests (as for pytest's -k) notice a mutation, or none; None if they pass."""
    with tempfile.TemporaryDirectory() as folder:
        cpp = Path(folder) / "cpp"
        for part in ("cuda", "emulation", "include"):
            shutil.copytree(ROOT / "cpp" / part, cpp / part)
        if mutation is not None:
            path = cpp / "cuda" / "kernels" / mutation.file
            path.write_text(path.read_text().replace(mutation.old, mutation.new))
        environment = {
            **os.environ,
            "TRANSNEXT_EMULATION_SOURCE": str(cpp),
            "HYPOTHESIS_PROFILE": "find",
        }
        command = [
            sys.executable, "-m", "pytest", "-q", "-x", "--tb=line", "-p", "no:cacheprovider",
            *(str(Path(__file__).parent / f"test_emulated_{name}.py") for name in TESTS),
            "-k", tests,
        ]  # fmt: skip
        result = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (LONGEST, LONGEST + 10)),
        )  # fmt: skip
    if result.returncode == -signal.SIGXCPU:
        return "never ends"
    if result.returncode == 0:
        return None
    if result.returncode != 1 or "failed" not in result.stdout:
        raise RuntimeError(f"pytest ended with {result.returncode}\n{result.stdout}{result.stderr}")
    reasons = re.findall(r"E? *((?:emulated\.)?(?:AssertionError|EmulationError).*)", result.stdout)
    return reasons[0] if reasons else result.stdout.splitlines()[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description="Break the kernels and see the tests fail.")
    parser.add_argument("--only", nargs="+", default=[""], help="words of the file or the breakage")
    parser.add_argument("--list", action="store_true", help="print the mutations and run none")
    arguments = parser.parse_args()
    chosen = [
        mutation
        for mutation in MUTATIONS
        if any(word in f"{mutation.file} {mutation.breaks}" for word in arguments.only)
    ]
    if arguments.list:
        for mutation in chosen:
            print(f"{mutation.file}: {mutation.breaks}")
        return
    every_test = " or ".join(sorted({f"({mutation.tests})" for mutation in chosen}))
    if (reason := verdict(None, every_test)) is not None:
        raise SystemExit(f"the unbroken kernels fail: {reason}")
    overlooked = 0
    for mutation in chosen:
        reason = verdict(mutation, mutation.tests)
        overlooked += reason is None
        told = "OVERLOOKED" if reason is None else f"noticed ({reason[:120]})"
        print(f"{mutation.file}: {mutation.breaks}: {told}", flush=True)
    print(f"{len(chosen) - overlooked} of {len(chosen)} noticed")
    raise SystemExit(overlooked > 0)


if __name__ == "__main__":
    main()
