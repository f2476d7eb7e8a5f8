"""Which model a feature set trains, with its configuration and its own measures."""

from dataclasses import dataclass, field

from training.models.metrics import DomainMetric, card_precision
from training.models.tabular import TabularConfig


@dataclass(frozen=True)
class Recipe:
    """The model's configuration and the measures that are reported beside the general ones."""

    config: TabularConfig = field(default_factory=TabularConfig)
    metrics: tuple[DomainMetric, ...] = ()

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
