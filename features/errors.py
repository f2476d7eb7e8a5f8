"""The root of every error Penstock raises on purpose.

PenstockError
├── DefinitionError          a definitions file says something that cannot be compiled
├── ContractError            a raw message breaks the contract of its topic
├── WireError                an envelope cannot be read
├── PositionError            a log no longer holds the place a reader stands at
├── SnapshotError            a stage snapshot is damaged or belongs to another plan
├── GateError                a quality gate refused a batch
├── BundleError              a model bundle fails its checks
├── TrainingError            a training step cannot go on (training/errors.py)
├── StackError               the local stack cannot do what was asked (penstock/stack)
├── ProvisionError           something the local stack runs on could not be fetched
└── ServiceUnavailableError  a part this command needs does not answer
"""


class PenstockError(Exception):
    """Something a user or operator can act on; its message says what, where and what to do."""


class DefinitionError(PenstockError):
    """A definitions file says something that cannot be compiled."""


class ContractError(PenstockError):
    """A raw message breaks the contract of its topic; `reason` is its stable code."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class WireError(PenstockError):
    """An envelope cannot be read, or was packed by another plan."""


class PositionError(PenstockError):
    """A log no longer holds the place a reader stands at; names it, and what the log holds."""


class SnapshotError(PenstockError):
    """A stage snapshot is damaged or belongs to another plan."""


class GateError(PenstockError):
    """A quality gate refused a batch; names the rules and the rows."""


class BundleError(PenstockError):
    """A model bundle fails its checks; both values are named."""


class ServiceUnavailableError(PenstockError):
    """A part this command needs does not answer; says which, where, and how to start it."""
