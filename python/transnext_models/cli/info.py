"""``transnext info``: versions, devices, and which backends can run here and why others cannot."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distributions, version
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from .console import JSON_OPTION, Debug, as_json, command, output, print_rows

if TYPE_CHECKING:
    import torch

Json = Annotated[bool, typer.Option(JSON_OPTION, help="Print JSON instead of tables.")]

_PACKAGES = ("transnext", "torch", "numpy", "pillow", "safetensors", "huggingface-hub", "timm")
_GIB = 1 << 30


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    app.command("info")(info)


@command
def info(json: Json = False, debug: Debug = False) -> None:
    """Show versions, devices, and each backend: what it can run here, or why it cannot."""
    facts = collect()
    if json:
        as_json(facts)
        return
    _print_block("Versions", [(name, text or "-") for name, text in facts["versions"].items()])
    _print_block("Devices", [(entry["name"], entry["description"]) for entry in facts["devices"]])
    backends = []
    for backend in facts["backends"]:
        for index, (device, text) in enumerate(backend["devices"].items() or [("", "")]):
            name = backend["name"] if index == 0 else ""
            backends.append((name, device, backend["unavailable"] or text))
    _print_block("Backends", backends)
    _print_block("Chosen by auto", list(facts["auto"].items()))
    if facts["requested"] != "auto":
        _print_block("Chosen by TRANSNEXT_OPS_BACKEND", [("every device", facts["requested"])])
    _print_block(
        "Models",
        [("names", ", ".join(facts["models"])), ("weights cache", facts["weights_cache"])],
    )


def collect() -> dict[str, Any]:
    """Return what the command shows, as plain data."""
    import torch

    from transnext_ops.backends import registry

    from ..checkpoints.hub import cache_folder
    from ..registry import list_models

    here = [torch.device("cpu")]
    if torch.cuda.is_available():
        here.append(torch.device("cuda"))
    return {
        "versions": _versions(),
        "devices": _devices(),
        "backends": [
            {
                "name": name,
                "unavailable": registry.unavailable_reason(name),
                "devices": {
                    device.type: _what_it_runs(name, device)
                    for device in here
                    if registry.unavailable_reason(name) is None
                },
            }
            for name in registry.BACKEND_NAMES
        ],
        "auto": {device.type: _auto_choice(device) for device in here},
        "requested": _requested(),
        "models": list_models(),
        "weights_cache": str(cache_folder()),
    }


def _print_block(title: str, rows: Sequence[Sequence[str]]) -> None:
    output().print(Text(title, style="bold"))
    print_rows(rows, indent=2)
    output().print()


# -- versions and devices -------------------------------------------------------------------------


def _versions() -> dict[str, str | None]:
    import transnext_ops

    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    found["transnext"] = transnext_ops.__version__  # also known where it is not installed
    # CuPy's name says its CUDA version; importing it could fail where it is not usable.
    cupy = [d.metadata["Name"] for d in distributions() if _is_cupy(d.metadata["Name"] or "")]
    found["cupy"] = f"{version(cupy[0])} ({cupy[0]})" if cupy else None
    found["python"] = platform.python_version()
    found["platform"] = platform.platform(terse=True)
    return found


def _is_cupy(name: str) -> bool:
    return name == "cupy" or name.startswith("cupy-cuda")


def _devices() -> list[dict[str, str]]:
    import torch

    threads = torch.get_num_threads()
    devices = [
        {
            "name": "cpu",
            "description": f"{_cpu_level()}, {threads} thread{'s' * (threads != 1)}",
        }
    ]
    if not torch.cuda.is_available():
        built = torch.version.cuda
        why = f"no device (torch has CUDA {built})" if built else "this torch is built without it"
        return [*devices, {"name": "cuda", "description": why}]
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        capability = f"compute capability {card.major}.{card.minor}"
        memory = f"{card.total_memory / _GIB:.0f} GiB"
        description = f"{card.name}, {capability}, {memory}, CUDA {torch.version.cuda}"
        devices.append({"name": f"cuda:{index}", "description": description})
    return devices


def _cpu_level() -> str:
    """Return the instruction set that the compiled library uses, or else the one torch uses."""
    import torch

    try:
        from transnext_ops import _cpp
    except ImportError:
        return f"{torch.backends.cpu.get_cpu_capability().lower()} (torch)"
    from transnext_ops.backends import cpp_backend

    available = ", ".join(_cpp.available_cpu_levels())
    return f"{cpp_backend.cpu_level()} (compiled kernels for {available})"


# -- backends -------------------------------------------------------------------------------------


def _what_it_runs(name: str, device: torch.device) -> str:
    """Say which operators a backend runs on a device in float32, and why not the others."""
    from transnext_ops.backends import registry

    calls = {op: _call(op, device) for op in registry.OPERATORS}
    reasons = {op: registry.unsupported_reason(name, call) for op, call in calls.items()}
    runs = [op for op, reason in reasons.items() if reason is None]
    if len(runs) == len(reasons):
        return "every operator"
    why = next(reason for reason in reasons.values() if reason is not None)
    return f"{', '.join(runs)} only: {why}" if runs else f"no: {why}"


def _requested() -> str:
    """Return the backend in force; why there is none where the environment names no backend."""
    from transnext_ops.backends import registry

    try:
        return registry.get_backend()
    except ValueError as error:
        return str(error)


def _auto_choice(device: torch.device) -> str:
    """Say which backend ``auto`` takes on a device, for each operator if they differ."""
    from transnext_ops.backends import registry

    chosen: dict[str, list[str]] = {}
    for op in registry.OPERATORS:
        chosen.setdefault(registry.resolve("auto", _call(op, device)), []).append(op)
    if len(chosen) == 1:
        return next(iter(chosen))
    return "; ".join(f"{name} for {', '.join(ops)}" for name, ops in chosen.items())


def _call(op: str, device: torch.device) -> Any:
    """Return a call of `op` as the published models make them."""
    import torch

    from transnext_ops.backends import registry

    from ..variants import VARIANTS

    has_heads = op in ("aggregated_attention", "window_qk", "window_av")
    published = VARIANTS["transnext_tiny"]
    shape = (published.head_dim, published.window_size) if has_heads else (None, None)
    return registry.Call(op, device, torch.float32, *shape)
