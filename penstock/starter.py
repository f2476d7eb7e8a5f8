"""A definitions file to begin with, for `penstock new`: it compiles as it is."""

from __future__ import annotations

import keyword
import os
import re
from pathlib import Path

from features.catalog import load_catalog
from features.errors import DefinitionError, PenstockError
from features.settings import settings

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
"""It becomes part of topics, tables and columns, and the name of a Python file."""

_TEXT = '''"""NAME: say here what is not plain from the definition itself."""

from features.vocabulary import (
    Entity,
    Event,
    FeatureSet,
    Integer,
    # Label,
    Text,
    count,
    days,
    hours,
    is_night,
    max,
    mean,
    # rate,
    seconds,
    seconds_since_last,
)

# What windows are kept by, each named after the field of the event that holds its key.
user = Entity("user_id")
place = Entity("place_id")

# The topic your producers send to: one JSON object a message, with exactly these members.
# What breaks that contract goes to NAME.event.v1.dlq, with the reason.
events = Event(
    "NAME.event.v1",
    id="event_id",  # an event whose id was seen before is dropped
    time="event_time",  # when it happened, with an offset: 2026-01-05T12:00:00Z
    key=user,
    lateness=hours(1),  # what lags further behind goes to NAME.event.v1.late
    fields={
        "user_id": Text(max=64, token=True),  # only a keyed hash of it is kept
        "place_id": Text(max=64),
        # Whole numbers only, so that sums are exact: 21.5 degrees are 21500 millidegrees, and
        # Money("EUR", min=0) is an amount in cents. What is added up declares its bounds.
        "size": Integer(min=0, max=1_000_000),
    },
)

# Is an event judged later? Then a model can learn to foresee the verdict: take the sign of a
# comment off here, in the import above and in the two lines below that name it.
# verdicts = Label("NAME.verdict.v1", of=events, field="is_bad", known_after=days(7))

NAME = FeatureSet(
    "NAME",
    event=events,
    # label=verdicts,
    description="What NAME tells, and whom it serves.",
    tags=("example",),
    owner="",  # who answers for it
    freshness=seconds(1),  # from an event to its place in the online store
    version=1,  # raise it when a change alters values: topics and state begin anew
    # The columns of the model's input, in this order.
    features=[
        events.size,
        is_night(events),
        *(count(by=user, over=window) for window in (hours(1), days(1), days(7))),
        *(mean(events.size, by=user, over=window) for window in (days(1), days(7))),
        max(events.size, by=user, over=days(7)),
        seconds_since_last(by=user, over=days(7)),
        count(by=place, over=days(1)),
        # Only some events: what a place gets of large ones, until an hour ago.
        count(by=place, over=days(1), delay=hours(1), where=events.size >= 100_000),
        # Arithmetic makes a column of its own, once it has a name; what is divided by 0 is 0.
        (count(by=user, over=hours(1)) / count(by=user, over=days(1))).named("user_haste"),
        # rate(verdicts.is_bad, by=place, over=days(30), delay=days(7)),
    ],
)
'''


def check_name(name: str) -> None:
    """Refuse a name that cannot be part of a topic, a column and a Python file.

    Raises:
        DefinitionError: says which name would do.
    """
    if _NAME.fullmatch(name) and not keyword.iskeyword(name):
        return
    near = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")[:64].lstrip("0123456789_")
    near = f"{near}_features" if not near or keyword.iskeyword(near) else near
    raise DefinitionError(
        f"{name!r} is no name for a feature set: small letters, digits and _ make one, a letter "
        f"first, at most 64; did you mean {near.lstrip('_')!r}?"
    )


def write(name: str, folder: Path) -> Path:
    """Write the file `<folder>/<name>.py`.

    Raises:
        PenstockError: the name will not do or is taken, or the file cannot be made.
    """
    check_name(name)
    if name in load_catalog().plans:
        raise PenstockError(f"there is a feature set {name!r} already; choose another name")
    file = folder / f"{name}.py"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with file.open("x") as handle:
            handle.write(_TEXT.replace("NAME", name))
    except FileExistsError:
        raise PenstockError(
            f"there is {str(file if folder.is_dir() else folder)!r} already, and it is not "
            "replaced; choose another name or --folder"
        ) from None
    except OSError as error:
        raise PenstockError(f"{file} cannot be written: {error.strerror}") from error
    return file


def exports(name: str, folder: Path) -> dict[str, str]:
    """The variables that let every command find the file and work for its feature set."""
    named = settings().definition_folders
    variables = {"PENSTOCK_FEATURE_SET": name}
    if folder.resolve() not in named:
        folders = map(str, [*named, folder.resolve()])
        variables = {"PENSTOCK_DEFINITIONS": os.pathsep.join(folders)} | variables
    return variables
