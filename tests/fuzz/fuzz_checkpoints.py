"""Search for weights files that are neither read nor refused, guided by the code they reach.

    pip install atheris
    python tests/fuzz/fuzz_checkpoints.py                       # until ctrl-C
    python tests/fuzz/fuzz_checkpoints.py -max_total_time=600   # libFuzzer's options

Starts from the files of `weights_corpus`, what was found before, and what earlier searches kept in
``build/fuzz``; changes them by `weights_mutations` and by libFuzzer's own mutations. A file that
breaks a promise is left in ``build/fuzz/found``: mend the reader, and move the file to
``tests/fuzz/found``, from where `test_weights_mutations.py` reads it for good.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from random import Random

import atheris
import torch
from weights_corpus import weights_files
from weights_mutations import mutated

with atheris.instrument_imports(include=["transnext_models.checkpoints"]):
    from weights_oracle import examine, library_agrees, memory_folder

HERE = Path(__file__).parent
KEPT = HERE.parents[1] / "build" / "fuzz"
_LARGEST = 1 << 16  # of a file
_SECONDS = 10  # for a file
_FILE = Path(tempfile.mkdtemp(dir=memory_folder()), "x.pth")


def one_input(data: bytes) -> None:
    """Examine one file; an exception is a finding."""
    _FILE.write_bytes(data)
    examine(_FILE)
    if data[8:9] == b"{":
        library_agrees(_FILE)


def mutator(data: bytes, largest: int, seed: int) -> bytes:
    """Change a file, by its format or anyhow."""
    random = Random(seed)
    if data and random.random() < 0.7:
        data = mutated(data, random)
        return data if len(data) <= largest else data[:largest]
    return atheris.Mutate(data, largest)


def main() -> None:
    """Run libFuzzer with this script's arguments."""
    torch.set_num_threads(1)
    corpus, found = KEPT / "corpus", KEPT / "found"
    for folder in (corpus, found):
        folder.mkdir(parents=True, exist_ok=True)
    for name, data in weights_files().items():
        (corpus / name).write_bytes(data)
    options = [
        f"-artifact_prefix={found}{os.sep}",
        f"-max_len={_LARGEST}",
        f"-timeout={_SECONDS}",
        "-rss_limit_mb=2048",
    ]
    folders = [str(corpus), str(HERE / "found")]
    arguments = [sys.argv[0], *options, *sys.argv[1:], *folders]
    atheris.Setup(arguments, one_input, custom_mutator=mutator)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
