"""kill -9 at random moments: every run ends, after one command, in the bits of one left alone.

    python tests/training/killed_runs.py --kills 60 --ranks 1 2 --workers 0 2 4 --seed 0

starts runs, kills each of them, and continues it with one command: `--resume RUN`, or the first
command again where not even its folder was there. The numbers of processes that train (ranks) and
of loaders (workers) take turns, and a table at the end counts the runs of each. Drawn from the seed
are

    when    at any time from the start of Python on; or as soon as the configuration, a checkpoint
            in the making, or an export is seen; once, or again while it goes on
    whom    the process and its loaders, or the process alone
    what    images (mixup, RandAugment, random erasing), or on one process digits (averaged
            weights) too; with or without checkpoints within epochs, written in the background or
            not
    where   TMPDIR on the run's file system or on another one; a disk that is too small (a tmpfs,
            where this may mount one, else a limit on the size of files), which is mended before
            the run goes on
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from training.short_runs import assert_same_end, command, write_images

_OTHER_FILE_SYSTEM = "/dev/shm"
_PATIENCE = 600  # seconds for a command that takes ten
_DISK_FULL, _OVER = "disk full", "over before"


@dataclass(frozen=True)
class Case:
    """How one run is killed."""

    data: str
    devices: int
    workers: int
    every_steps: int | None
    in_background: bool
    trigger: str
    delay: float
    kills: int
    group: bool
    other_tmpdir: bool
    small_disk: int | None

    @classmethod
    def draw(cls, rng: random.Random, devices: int, workers: int) -> Case:
        """Draw a case for so many processes and loaders; all that is random about it."""
        return cls(
            data="images" if devices > 1 else rng.choice(["digits", "images", "images"]),
            devices=devices,
            workers=workers,
            every_steps=rng.choice([None, 1, 1, 2]),
            in_background=rng.random() < 0.75,
            trigger=rng.choice(["time", "time", "config", "checkpoint", "checkpoint", "export"]),
            delay=rng.random(),
            kills=rng.choice([1, 1, 2, 3]),
            group=rng.random() < 0.5,
            other_tmpdir=rng.random() < 0.5,
            small_disk=rng.randrange(1, 50_000_000) if rng.random() < 0.3 else None,
        )

    def arguments(self, images: Path) -> list[str]:
        """The command's, but for --output and --resume."""
        checkpoints = [] if self.in_background else ["--no-async-checkpoints"]
        if self.every_steps is not None:
            checkpoints += ["--checkpoint-every-steps", str(self.every_steps)]
        return [
            *_arguments(self.data, self.devices, images),
            "--workers",
            str(self.workers),
            *checkpoints,
        ]


def _arguments(data: str, devices: int, images: Path) -> list[str]:
    if data == "digits":
        return [
            *("--recipe", "digits", "--epochs", "3", "--batch-size", "8", "--devices", "1"),
            *("--limit-train-batches", "3", "--limit-val-batches", "1", "--no-report"),
        ]
    return [
        *("--recipe", "imagenet_224", "--model", "transnext_pico", "--num-classes", "3"),
        *("--data", str(images), "--img-size", "32", "--pretrain-size", "32"),
        *("--devices", str(devices)),
        *("--epochs", "4", "--batch-size", "4", "--no-report"),
    ]


class Stress:
    """Runs killed in a folder, beside the runs that were not.

    Parameters
    ----------
    folder : an empty one, for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = folder / "images"
        write_images(self.images)
        self._groups: list[int] = []
        self.whole: dict[tuple[str, int], Path] = {}
        self.seconds: dict[tuple[str, int], float] = {}

    def reference(self, data: str, devices: int) -> Path:
        """The run that nothing interrupts."""
        key = data, devices
        if key not in self.whole:
            run = self.folder / f"whole_{data}_{devices}"
            began = time.monotonic()
            arguments = _arguments(data, devices, self.images)
            self._to_the_end([*arguments, "--workers", "0", "--output", str(run)], {})
            self.seconds[key] = time.monotonic() - began
            self.whole[key] = run
        return self.whole[key]

    def survive(self, case: Case, name: str) -> list[str]:
        """Kill a run, go on, and compare; what happened at each attempt, in words.

        Raises
        ------
        AssertionError : the run has not ended as one that was left alone.
        """
        whole = self.reference(case.data, case.devices)
        home = self.folder / name
        home.mkdir()
        with _disk(home, case.small_disk) as (limit, mend):
            run = home / "run"
            environment = self._environment(case, name)
            seen = []
            for attempt in range(case.kills):
                again = self._command(case, run)
                seen.append(self._killed(case, again, run, attempt, environment, limit))
                if attempt == 0:
                    mend()
                    limit = None
            self._to_the_end(self._command(case, run), environment)
            assert_same_end(whole, run)
        # A second process that was about to meet the first one waits for it for minutes.
        while self._groups:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._groups.pop(), signal.SIGKILL)
        shutil.rmtree(home)
        return seen

    def _command(self, case: Case, run: Path) -> list[str]:
        # A folder shows that the run was begun; how far, is the command's business.
        if (run / "run.lock").exists():
            return [*case.arguments(self.images), "--resume", str(run)]
        return [*case.arguments(self.images), "--output", str(run)]

    def _environment(self, case: Case, name: str) -> dict[str, str]:
        if not case.other_tmpdir:
            return {}
        folder = Path(_OTHER_FILE_SYSTEM, f"{self.folder.name}_{name}")
        folder.mkdir(exist_ok=True)
        return {"TMPDIR": str(folder)}

    def _killed(
        self,
        case: Case,
        arguments: list[str],
        run: Path,
        attempt: int,
        environment: dict[str, str],
        limit: int | None,
    ) -> str:
        """Start the command and kill it; at which sight."""
        delay = (case.delay + 0.37 * attempt) % 1
        process = _start(arguments, environment, limit)
        self._groups.append(process.pid)
        began = time.monotonic()
        longest = 1.1 * self.seconds[case.data, case.devices]
        signs = {
            "config": [run / "config.json"],
            "checkpoint": [run / "checkpoints" / f".{name}.ckpt.part" for name in ("last", "best")],
            "export": [run / ".model.safetensors.part", run / "model.safetensors"],
        }
        # What is there from the first attempt is no sight the second time.
        sign = case.trigger if attempt == 0 else "time"
        if sign == "time":
            while time.monotonic() - began < delay * longest and process.poll() is None:
                time.sleep(0.002)
        else:
            there = signs[sign]
            while process.poll() is None and not any(path.exists() for path in there):
                time.sleep(0.0005)
            time.sleep(delay * 0.2)
        alive = process.poll() is None
        with contextlib.suppress(ProcessLookupError):
            if case.group:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        if alive:
            # Loaders of a process killed alone live on for seconds; they are not waited for.
            process.wait()
            for pipe in (process.stdout, process.stderr):
                assert pipe is not None
                pipe.close()
            return f"{sign} at {time.monotonic() - began:.1f} s"
        _, error = process.communicate()
        assert process.returncode in (0, 1), error
        assert "Traceback" not in error, error
        if process.returncode:
            assert "cannot be written" in error, error
            return _DISK_FULL
        return _OVER

    def _to_the_end(self, arguments: list[str], environment: dict[str, str]) -> None:
        process = _start(arguments, environment, None)
        _, error = process.communicate(timeout=_PATIENCE)
        assert process.returncode == 0, error


def _start(
    arguments: list[str], environment: dict[str, str], limit: int | None
) -> subprocess.Popen[str]:
    def limited() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))

    return subprocess.Popen(
        command(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        start_new_session=True,
        preexec_fn=limited,
    )


@contextlib.contextmanager
def _disk(home: Path, size: int | None) -> Iterator[tuple[int | None, Callable[[], object]]]:
    """Make `home` a disk of so many bytes; a limit on files instead where that cannot be, and what
    makes room."""
    if size is None:
        yield None, lambda: None
        return
    options = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*options, f"size={size}", "tmpfs", home], capture_output=True).returncode:
        yield size // 4, lambda: None  # it grows no file beyond; a checkpoint has 9 to 12 MB
        return
    grow = ["mount", "-o", "remount,size=200000000", home]
    try:
        yield None, lambda: subprocess.run(grow, check=True)
    finally:
        subprocess.run(["umount", "--lazy", home], check=True)


class Tally:
    """What happened to the runs of each number of processes and loaders."""

    def __init__(self) -> None:
        self._runs: Counter[tuple[int, int]] = Counter()
        self._seen: dict[tuple[int, int], Counter[str]] = {}

    def add(self, case: Case, seen: list[str]) -> None:
        """Count a run."""
        key = case.devices, case.workers
        self._runs[key] += 1
        kinds = (what if what in (_DISK_FULL, _OVER) else "killed" for what in seen)
        self._seen.setdefault(key, Counter()).update(kinds)

    def lines(self) -> list[str]:
        """Return the table."""
        lines = ["ranks  workers  runs  killed  disk full  over before the kill"]
        for (devices, workers), runs in sorted(self._runs.items()):
            seen = self._seen[devices, workers]
            lines.append(
                f"{devices:5}  {workers:7}  {runs:4}  {seen['killed']:6}  "
                f"{seen[_DISK_FULL]:9}  {seen[_OVER]:20}"
            )
        return lines


def cases(seed: str, runs: int, ranks: list[int], workers: list[int]) -> list[Case]:
    """Draw the cases of a seed: ranks and workers take turns."""
    turns = itertools.cycle(itertools.product(ranks, workers))
    return [Case.draw(random.Random(f"{seed}/{number}"), *next(turns)) for number in range(runs)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=60, help="runs that are killed")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2], help="that train together")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2, 4], help="that load")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--start", type=int, default=0, help="number of the first one")
    parser.add_argument("--folder", type=Path, help="where all runs are written; a temporary one")
    options = parser.parse_args()
    drawn = cases(options.seed, options.kills, options.ranks, options.workers)
    tally = Tally()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="killed_runs_") as folder:
        stress = Stress(Path(folder))
        for number, case in enumerate(drawn[options.start :], options.start):
            print(f"{number}: {case}", flush=True)
            seen = stress.survive(case, str(number))
            tally.add(case, seen)
            print(f"    {', '.join(seen)}: equal", flush=True)
        for left in Path(_OTHER_FILE_SYSTEM).glob(f"{Path(folder).name}_*"):
            shutil.rmtree(left)
    print(*tally.lines(), sep="\n")
    print("all of them ended in the bits of the uninterrupted runs")


if __name__ == "__main__":
    main()
