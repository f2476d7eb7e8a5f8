"""The tabular model: preprocessing and calibration are part of it."""

from pathlib import Path

import numpy as np
import pytest
import torch

from training.models import tabular
from training.models.config import TabularConfig

CONFIG = TabularConfig(hidden=(8,))


def rows(n: int = 4000, seed: int = 0) -> torch.Tensor:
    generator = np.random.default_rng(seed)
    columns = [generator.lognormal(9, 1.5, n), generator.normal(3, 2, n), np.full(n, 5.0)]
    return torch.tensor(np.column_stack(columns), dtype=torch.float32)


def test_skewed_columns_are_compressed_and_all_are_standardised() -> None:
    model = tabular.TabularNet(3, CONFIG)
    model.fit_inputs(rows())
    assert model.log_columns.tolist() == [1, 0, 0]
    seen: list[torch.Tensor] = []
    model.layers.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(rows())
    assert seen[0].mean(dim=0).abs().max() < 1e-3
    assert seen[0].std(dim=0).tolist() == pytest.approx([1, 1, 0], abs=1e-2)


def test_extreme_and_negative_inputs_give_finite_scores() -> None:
    model = tabular.TabularNet(3, CONFIG).eval()
    model.fit_inputs(rows())
    extreme = torch.tensor([[1e30, -1e30, 1e30], [-1e9, 0.0, 0.0]])
    score = model.score(extreme)
    assert score.shape == (2,)
    assert torch.isfinite(score).all()


def test_calibration_makes_scores_probabilities_and_keeps_their_order() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randn(20_000, generator=generator) - 3
    labels = (torch.rand(20_000, generator=generator) < torch.sigmoid(truth)).float()
    # What weighting positives does to a logit: stretched and far too high.
    logits = 2.5 * truth + 4
    model = tabular.TabularNet(1, CONFIG)
    model.calibrate(logits, labels)
    assert float(model.platt_slope) == pytest.approx(1 / 2.5, rel=0.05)
    probability = torch.sigmoid(model.platt_slope * logits + model.platt_offset)
    assert float(probability.mean()) == pytest.approx(float(labels.mean()), rel=1e-3)


def test_calibration_never_turns_the_order_round() -> None:
    model = tabular.TabularNet(1, CONFIG)
    model.calibrate(torch.linspace(-2, 2, 100), (torch.arange(100) < 20).float())
    assert float(model.platt_slope) > 0


def test_a_saved_model_loads_with_equal_scores_configuration_and_columns(tmp_path: Path) -> None:
    model = tabular.TabularNet(3, CONFIG).eval()
    model.fit_inputs(rows())
    model.calibrate(model(rows()), (rows()[:, 1] > 4).float())
    tabular.save(model, ["a", "b", "c"], tmp_path / "model.safetensors")
    loaded, columns = tabular.load(tmp_path / "model.safetensors")
    assert columns == ["a", "b", "c"]
    assert loaded.config == CONFIG
    assert torch.equal(loaded.score(rows()), model.score(rows()))


@pytest.mark.parametrize(("positives", "weight"), [(1, 10.0), (100, 3.0), (500, 1.0), (0, 10.0)])
def test_rare_positives_weigh_more_up_to_the_cap(positives: int, weight: float) -> None:
    labels = (torch.arange(1000) < positives).float()
    assert tabular.positive_weight(labels, CONFIG) == pytest.approx(weight)
