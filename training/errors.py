"""What a training run refuses, in words a person can act on."""

from features.errors import PenstockError


class TrainingError(PenstockError):
    """A training step cannot go on: says which, with which values, and what to change."""
