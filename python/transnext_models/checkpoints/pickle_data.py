"""Read the data in a pickle without running it, in time and memory proportional to its bytes.

A pickle is a small program for a stack machine. Three of its instructions reach outside the data:
looking up a name in any importable module, calling what was found, and handing state to the result.
Python's `pickle` performs them, which is how a weights file can run a command on the machine that
opens it.

This reader decodes the same instructions (`pickle_code`) and keeps the data they build: numbers,
text, bytes, tuples, lists, dictionaries. A name is kept as a `Name`, the result of a call as a
`Call`; nothing is ever imported or called, so there is no allow-list to get wrong. What a `Call`
means (a tensor, say) is decided later, by code that looks at plain data.

A few bytes can also ask for more than a machine has. Every instruction is paid for out of an
allowance, in bytes of the objects it makes and of the work it repeats; nothing is copied that was
made once; and nothing is hashed or compared but short plain values, since the hash of a tuple
nested by reference takes exponential time and many integers can share one hash. Closed on purpose
are the extension registry (`EXT1/2/4` could fetch a live object out of `copyreg`'s cache) and
out-of-band buffers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .pickle_code import ByteReader
from .pickle_machine import Machine
from .pickle_values import Allowance, Call, Name, Omitted, PersistentId, PickleDataError

__all__ = [
    "Allowance",
    "Call",
    "Name",
    "Omitted",
    "PersistentId",
    "PickleDataError",
    "read_pickle",
]


_ALLOWANCE = 64 << 20


def read_pickle(
    file: ByteReader,
    persistent: Callable[[object], object] = PersistentId,
    called: Callable[[object], None] = lambda function: None,
    allowance: Allowance | None = None,
) -> Any:
    """Read one pickle from `file`, up to and including its STOP.

    Parameters
    ----------
    file : ByteReader
        Positioned at the pickle's first byte; left just behind its last.
    persistent : Callable[[object], object]
        Called with each persistent id (data); what it returns stands in its place.
    called : Callable[[object], None]
        Told each function that unpickling would call (data, a `Name` unless the pickle is odd).
    allowance : Allowance | None
        What the pickle may cost, with others if they share it; None is 64 MiB.

    Returns
    -------
    object
        Numbers, strings, bytes, None, tuples, lists, dicts, sets, and `Name`, `Call`, `Omitted`,
        `PersistentId` for everything else. An ``OrderedDict`` becomes a dict; a dictionary key or
        set member that is not a plain value becomes a `Call`.

    Raises
    ------
    PickleDataError
        If the pickle is cut short, malformed, uses an instruction that has no meaning as data, or
        makes more objects than allowed.
    """
    machine = Machine(persistent, called, allowance or Allowance(_ALLOWANCE))
    try:
        return machine.run(file)
    except PickleDataError:
        raise
    # The decoder and the stack operations below report a malformed pickle through these.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError) as error:
        raise PickleDataError(f"not a well-formed pickle ({error})") from error
