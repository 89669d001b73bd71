"""The bytes of a shard that can only be read in order: of a command's output, or of a URL."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from .steady_file import SteadyFile
from .tar_members import ArchiveError, Readable

__all__ = ["opened_stream"]

_PIPE = "pipe:"
_PATIENCE = 10  # seconds that a command has to end after its output has


@contextmanager
def opened_stream(shard: str) -> Iterator[Readable]:
    """Yield what a shell command after `pipe:` writes, or what is at a URL that fsspec can open.

    Left early, the command is ended, with all that it has started.

    Raises
    ------
    ArchiveError
        It cannot be opened or read, or the command fails.
    RuntimeError
        A package is missing.
    """
    if shard.startswith(_PIPE):
        with _command(shard) as output:
            yield output
        return
    with SteadyFile(shard) as file:
        yield file


@contextmanager
def _command(shard: str) -> Iterator[Readable]:
    # In a session of its own: ctrl-C is the trainer's, which still needs a batch for its last step.
    process = subprocess.Popen(
        shard.removeprefix(_PIPE),
        shell=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )
    output = process.stdout
    assert output is not None
    try:
        yield output
        # What is behind the archive's end is taken from the command, so that it ends by itself.
        while select.select([output], [], [], _PATIENCE)[0] and output.read(1 << 20):
            pass
        status = process.wait(_PATIENCE)
    except ArchiveError as error:
        status = _status(process)
        if status:
            raise ArchiveError(shard, f"failed with status {status}; {error.args[1]}") from error
        raise
    except subprocess.TimeoutExpired as error:
        raise ArchiveError(shard, "has not ended after its output") from error
    finally:
        output.close()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    if status:
        raise ArchiveError(shard, f"failed with status {status}")


def _status(process: subprocess.Popen[bytes]) -> int:
    with contextlib.suppress(subprocess.TimeoutExpired):
        return process.wait(1)
    return 0
