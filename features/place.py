"""Where a declaration stands, and the one form that its errors have."""

from __future__ import annotations

import difflib
import sys
from dataclasses import dataclass
from pathlib import Path

from features.errors import DefinitionError

_WORDS = {str(Path(__file__).with_name(name)) for name in ("place.py", "types.py", "vocabulary.py")}
"""The modules a definitions file calls; a mistake is never theirs."""


@dataclass(frozen=True)
class Place:
    """A line of a file."""

    file: str
    line: int

    def __str__(self) -> str:
        """As an editor opens it: from the working folder where the file lies below it."""
        file, here = Path(self.file), Path.cwd()
        return f"{file.relative_to(here) if file.is_relative_to(here) else file}:{self.line}"


def caller() -> Place:
    """The line of the definitions file that is being run."""
    frame = sys._getframe(1)
    # A dataclass's generated __init__ has no file of its own.
    while frame.f_back is not None and (
        frame.f_code.co_filename in _WORDS or frame.f_code.co_filename.startswith("<")
    ):
        frame = frame.f_back
    return Place(frame.f_code.co_filename, frame.f_lineno)


def wrong(place: Place, what: str, mend: str) -> DefinitionError:
    """A definition error in the one form they all have."""
    return DefinitionError(f"{place}: {what}; {mend}")


def did_you_mean(name: str, known: list[str]) -> str:
    """A suggestion for a misspelt name, or the list of what there is."""
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there is {', '.join(map(repr, known))}"
