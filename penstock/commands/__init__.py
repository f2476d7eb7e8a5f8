"""What the commands share."""

import sys


def say(line: str) -> None:
    """A line of progress: standard output is for results."""
    print(line, file=sys.stderr, flush=True)
