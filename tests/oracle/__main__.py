"""Compare all of detection and segmentation with OpenMMLab: `python tests/oracle`.

See CONTRIBUTING, "The published heads", for the environment. Each comparison has a process of its
own; the exit code is 0 where all are within their limits.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COMPARISONS = (
    "backbone",
    "mask_rcnn",
    "dino",
    "upernet",
    "mask2former",
    "data_pipelines",
    "parameter_groups",
)


def main() -> int:
    """Run the comparisons that are named on the command line, or all."""
    names = sys.argv[1:] or COMPARISONS
    unknown = set(names) - set(COMPARISONS)
    if unknown:
        print(f"got {', '.join(sorted(unknown))}, needs some of {', '.join(COMPARISONS)}")
        return 2
    tests = HERE.parent
    paths = [str(tests), str(tests / "support"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    failed = []
    for name in names:
        print(f"\n{name}", flush=True)
        command = [sys.executable, "-W", "ignore", str(HERE / f"{name}.py")]
        if subprocess.run(command, env=environment, check=False).returncode:
            failed.append(name)
    print(f"\n{len(names) - len(failed)} of {len(names)} comparisons within their limits")
    if failed:
        print("not:", ", ".join(failed))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
