"""What a launch did."""

from __future__ import annotations

from typing import Any


class LaunchResult:
    """Counts and messages of one launch.

    Attributes
    ----------
    stats : dict
        Instructions, floating-point operations, traffic; see README.md.
    warnings : list of str
        The first occurrence of each diagnostic.
    diagnostics : dict of str to int
        How often each occurred.
    printf : str
        What the kernel printed.
    """

    def __init__(self, report: dict[str, Any]) -> None:
        self.stats = report
        self.warnings: list[str] = report.get("warnings", [])
        self.diagnostics: dict[str, int] = report.get("diagnostics", {})
        self.printf: str = report.get("printf", "")

    @property
    def races(self) -> int:
        """Conflicting accesses to shared memory."""
        names = ("race_between_warps", "race_within_warp")
        return sum(self.diagnostics.get(name, 0) for name in names)

    def coalescing(self, which: str = "global_load") -> float:
        """Return requested bytes over the bytes of the 32-byte sectors that were moved.

        1 is ideal; above 1 lanes share data.
        """
        access = self.stats[which]
        if not access["sectors"]:
            return float("nan")
        return access["bytes"] / (32.0 * access["sectors"])

    def summary(self) -> str:
        """Return the counts as lines to read."""
        stats = self.stats
        thread, warp = stats["thread_instructions"], stats["warp_instructions"]
        seconds = stats["seconds"]
        classes = sorted(stats["by_class"].items(), key=lambda item: -item[1]["thread"])
        lines = [
            f"{thread:,} thread instructions ({warp:,} warp) in {seconds:.3f} s; "
            f"{thread / max(seconds, 1e-9) / 1e6:.0f} M/s; "
            f"lanes active {thread / max(1, warp):.1f}/32",
            "by class (thread): "
            + ", ".join(f"{name} {count['thread']:,}" for name, count in classes),
        ]
        for name in ("global_load", "global_store", "global_atomic"):
            access = stats[name]
            if access["requests"]:
                lines.append(
                    f"{name}: {access['bytes']:,} B requested, {access['sectors']:,} sectors = "
                    f"{access['sectors'] * 32:,} B, efficiency {self.coalescing(name):.2f}, "
                    f"{access['sectors'] / access['requests']:.1f} sectors/request"
                )
        lines.append(
            f"distinct data: read {stats['unique_read_sectors'] * 32:,} B, "
            f"written {stats['unique_written_sectors'] * 32:,} B"
        )
        shared = stats["shared"]
        if shared["requests"]:
            lines.append(
                f"shared: {shared['load_bytes']:,} B read, {shared['store_bytes']:,} B written, "
                f"{shared['wavefronts']:,} wavefronts (ideal {shared['ideal_wavefronts']:,}), "
                f"{stats['shared_bytes_per_block']} B/block"
            )
        if stats["local_bytes"]:
            lines.append(f"local memory: {stats['local_bytes']:,} B")
        flops = (f"{name} {count:,}" for name, count in stats["flops"].items() if count)
        lines.append("flop: " + ", ".join(flops))
        found = {name: count for name, count in self.diagnostics.items() if count}
        lines.append(f"diagnostics: {found or 'none'}")
        lines += [f"  warning: {warning}" for warning in self.warnings[:8]]
        return "\n".join(lines)
