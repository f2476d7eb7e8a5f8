"""The one list of parts, from which supervisor, status and compose file are generated."""

from collections.abc import Sequence

from penstock.stack.airflow import AIRFLOW_PARTS
from penstock.stack.part import Part
from penstock.stack.services import SERVICE_PARTS
from penstock.stack.supervisor import StackError
from penstock.stack.third_party import ALERTMANAGER, KAFKA, MLFLOW, PROMETHEUS, REDIS, REGISTRY

THIRD_PARTY = (KAFKA, REGISTRY, REDIS, MLFLOW, PROMETHEUS, ALERTMANAGER)

PARTS: dict[str, Part] = {
    part.name: part for part in (*THIRD_PARTY, *AIRFLOW_PARTS, *SERVICE_PARTS)
}

GROUPS: dict[str, tuple[str, ...]] = {
    "infra": tuple(part.name for part in THIRD_PARTY),
    "airflow": tuple(part.name for part in AIRFLOW_PARTS),
    "services": tuple(part.name for part in SERVICE_PARTS),
}


def select(names: Sequence[str]) -> list[Part]:
    """The named parts or groups with everything they need, in start order; all when none is named.

    Raises StackError for a name that is neither.
    """
    wanted: set[str] = set()
    todo = list(names) or list(PARTS)
    while todo:
        name = todo.pop()
        if name in GROUPS:
            todo.extend(GROUPS[name])
        elif name not in PARTS:
            known = ", ".join((*PARTS, *GROUPS))
            raise StackError(f"There is no part named {name}. There are: {known}.")
        elif name not in wanted:
            wanted.add(name)
            todo.extend((*PARTS[name].depends_on, *PARTS[name].companions))
    return [part for part in PARTS.values() if part.name in wanted]
