"""Write ``transnext_ops/_cpp.pyi`` from the records of the operators.

python -m tools.cpp_stub
"""

from __future__ import annotations

from pathlib import Path

from transnext_ops.schema import FUSED_BLOCKS, OPERATORS

STUB = Path(__file__).resolve().parents[1] / "python" / "transnext_ops" / "_cpp.pyi"

_MARK = "# Written from the records; what is above is written by hand.\n"

_TYPES = {
    "tensor": "_Tensor",
    "optional tensor": "_Tensor | None",
    "grid": "Sequence[int]",
    "ints": "Sequence[int]",
    "dtype": "str",
}


def text() -> str:
    """Return the stub file: what is written by hand in it, then a function for each operator."""
    by_hand, mark, _ = STUB.read_text().partition(_MARK)
    functions = []
    for operator in (*OPERATORS.values(), *FUSED_BLOCKS.values()):
        functions.append(_function(operator.name, operator.compiled_signature))
        if operator.has_backward:
            backward = operator.compiled_backward_signature
            functions.append(_function(f"{operator.name}_backward", backward))
    return by_hand + mark + "".join(functions)


def _function(name: str, signature: list[tuple[str, str]]) -> str:
    lines = [f"    {argument}: {_TYPES.get(kind, kind)},\n" for argument, kind in signature]
    return f"def {name}(\n{''.join(lines)}    /,\n) -> None: ...\n"


if __name__ == "__main__":
    STUB.write_text(text())
