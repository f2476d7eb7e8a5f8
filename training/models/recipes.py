"""Which model a feature set trains, with its configuration and its own measures."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from training.models.config import TabularConfig
from training.models.metrics import DomainMetric, card_precision


@dataclass(frozen=True)
class Recipe:
    """The model's configuration, its own measures, and how many events each decision may take.

    `decision_shares` maps a decision to the share of all events that reaches it.
    """

    config: TabularConfig = field(default_factory=TabularConfig)
    metrics: tuple[DomainMetric, ...] = ()
    decision_shares: Mapping[str, float] = field(
        default_factory=lambda: {"review": 0.01, "block": 0.002}
    )

    @property
    def carried_fields(self) -> tuple[str, ...]:
        """The event fields the measures read."""
        return tuple(dict.fromkeys(name for metric in self.metrics for name in metric.fields))


RECIPES = {
    "card_fraud": Recipe(
        metrics=(DomainMetric("card_precision_at_100", ("customer_id",), card_precision),),
    ),
}


def recipe_of(feature_set: str) -> Recipe:
    """The recipe of a feature set; one without its own gets the plain one."""
    return RECIPES.get(feature_set, Recipe())
