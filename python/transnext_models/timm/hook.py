"""Register the models with timm without importing it.

timm takes seconds to import and is an extra, so :func:`register_when_imported` registers at once if
timm is there already, and otherwise right after someone imports it.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType

__all__ = ["register_when_imported"]


def register_when_imported() -> None:
    """Register the models with timm, now or when it gets imported. May be called again."""
    if "timm" in sys.modules:
        _register()
    elif not any(isinstance(finder, _TimmFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _TimmFinder())


def _register() -> None:
    try:
        importlib.import_module(f"{__package__}.registry")
    except Exception as error:  # an unfit timm must not make `import timm` fail
        warnings.warn(f"the TransNeXt models are not registered with timm: {error!r}", stacklevel=2)


class _TimmFinder:
    """Lets the other finders find timm, and has its loader register the models at the end."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "timm":
            return None
        for finder in sys.meta_path:
            find = getattr(finder, "find_spec", None)
            spec = find(name, path, target) if finder is not self and find else None
            if spec is not None:
                self._extend(spec)
                return spec
        return None

    def _extend(self, spec: ModuleSpec) -> None:
        loader = spec.loader
        if loader is None:  # a folder called timm without code
            return
        execute = loader.exec_module

        def execute_and_register(module: ModuleType) -> None:
            execute(module)
            loader.exec_module = execute  # type: ignore[method-assign]
            if self in sys.meta_path:
                sys.meta_path.remove(self)
            _register()

        loader.exec_module = execute_and_register  # type: ignore[method-assign]
