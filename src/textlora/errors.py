"""The errors a user can fix, one exit code each.

    TextLoraError            1   (never raised itself)
    ├── UsageError           2   the command, a recipe or a named thing is wrong
    ├── DataError            3   the content of a data file
    ├── BudgetError          4   more trainable parameters than the budget allows
    ├── GateError            5   a check of our own failed (reload, parity)
    ├── DamagedError         6   a damaged or refused file
    └── ResourceError        7   disk, memory, network, device, missing extra

Each also inherits the builtin it refines, so `except ValueError` does what a Python user expects. The message says
what was expected and what came; `fix` says what to do. `cli` prints both without a traceback and exits with `code`.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Iterable
from typing import Any

FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}  # what an OSError says of a disk that takes no more


class TextLoraError(Exception):
    """Something the user can fix: `message` says what is wrong, `fix` what to do; `details` are a program's."""

    code = 1
    kind = "error"

    def __init__(self, message: str, fix: str = "", details: dict[str, Any] | None = None) -> None:
        super().__init__(f"{message}; {fix}" if fix else message)
        self.message = message
        self.fix = fix
        self.details = details


class UsageError(TextLoraError, ValueError):
    """The command, a recipe or a named thing is wrong."""

    code = 2
    kind = "usage"


class DataError(TextLoraError, ValueError):
    """A data file holds something that can't be used."""

    code = 3
    kind = "data"


class BudgetError(TextLoraError, ValueError):
    """The plan trains more parameters than the budget allows."""

    code = 4
    kind = "budget"


class GateError(TextLoraError, RuntimeError):
    """A check that textlora makes of its own work failed; the result must not be trusted."""

    code = 5
    kind = "gate"


class DamagedError(TextLoraError, ValueError):
    """A file is damaged, or of a kind that is never read."""

    code = 6
    kind = "damaged"


class ResourceError(TextLoraError, OSError):
    """Disk, memory, network, device, or an extra that isn't installed."""

    code = 7
    kind = "resource"

    def __str__(self) -> str:  # OSError with two arguments would print them as errno and strerror
        return f"{self.message}; {self.fix}" if self.fix else self.message


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on any device, says so."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text


def closest(name: str, known: Iterable[str], limit: int = 3) -> str:
    """`did you mean a, b?` for a misspelt name, or the list of what is known: the second half of an error."""
    known = list(known)
    near = difflib.get_close_matches(name, known, n=limit, cutoff=0.6)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"known: {', '.join(known)}" if known else "there is none"
