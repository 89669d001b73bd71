"""A command that has others by the same name: ``evaluate MODEL``, and ``evaluate detect MODEL``."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand

__all__ = ["chosen", "with_subcommands"]


class _WithSubcommands(TyperCommand):
    """A command whose first argument may be the name of another, which then runs instead."""

    subcommands: ClassVar[dict[str, Any]]

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.epilog = "\n\n".join(
            f"[bold]{self.name} {name}[/]: {command.get_short_help_str(limit=100)}"
            for name, command in self.subcommands.items()
        )

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """Return the context of the command that `args` name, or of this one."""
        command = chosen(self, args)
        if command is self:
            return super().make_context(info_name, args, parent, **extra)
        return command.make_context(f"{info_name} {args[0]}", args[1:], parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command of the context; that of another where its name was given."""
        return super().invoke(ctx) if ctx.command is self else ctx.command.invoke(ctx)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Return the subcommands that begin so, and what the command itself completes."""
        # Typer has the class of what is completed from click, or from a copy of its own.
        item = type(super().shell_complete(ctx, "-")[0])  # --help is always there
        names = [item(name) for name in self.subcommands if name.startswith(incomplete)]
        return [*names, *super().shell_complete(ctx, incomplete)]


def with_subcommands(**functions: Callable[..., Any]) -> type[TyperCommand]:
    """Return the class of a command that has subcommands, for ``app.command(cls=…)``.

    What does not begin with the name of a subcommand is the command's own, as if it had none.

    Parameters
    ----------
    **functions
        By name, what Typer makes a command of.
    """
    return type(
        "CommandWithSubcommands",
        (_WithSubcommands,),
        {"subcommands": {name: _command(name, each) for name, each in functions.items()}},
    )


def chosen(command: Any, args: Sequence[str]) -> Any:
    """Return the command that arguments run: `command`, or its subcommand that they begin with."""
    subcommands: dict[str, Any] = getattr(command, "subcommands", {})
    return subcommands.get(args[0], command) if args else command


def _command(name: str, function: Callable[..., Any]) -> Any:
    alone = typer.Typer(
        add_completion=False, rich_markup_mode="rich", pretty_exceptions_enable=False
    )
    alone.command(name, help=inspect.getdoc(function))(function)
    return typer.main.get_command(alone)
