"""A champion for every set: the product's own network, exported and registered as training does.

`python -m benchmarks.stream.model SET …` is a process of its own, because torch and MLflow's client
are large. The network has seen random rows only, which costs a score as much as learned ones.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from features.catalog import load_plan
from training.export import finish, torch_scores
from training.models.config import TabularConfig
from training.models.tabular import TabularNet
from training.packing import write_bundle
from training.registry import Registry

ROWS = 4096


def main(names: Sequence[str]) -> None:
    plans = [load_plan(name) for name in names]
    columns = plans[0].column_names
    torch.manual_seed(1)
    rng = np.random.default_rng(1)
    features = rng.gamma(2.0, 1000.0, (ROWS, len(columns)))
    labels = (rng.random(ROWS) < 0.05).astype(np.int8)
    model = TabularNet(len(columns), TabularConfig()).eval()
    model.fit_inputs(torch.from_numpy(features))
    narrow = features.astype(np.float32)
    registry = Registry()
    with tempfile.TemporaryDirectory() as folder:
        trained = Path(folder) / "trained"
        trained.mkdir()
        finish(model, columns, narrow, labels, trained)
        for plan in plans:
            bundle = Path(folder) / plan.name
            write_bundle(
                bundle,
                plan,
                trained,
                train_features=features,
                train_scores=torch_scores(model, narrow),
                thresholds={"review": 0.1, "block": 0.5},
                metrics={},
                dataset_fingerprint="",
            )
            run = registry.client.create_run("0")
            registry.promote(registry.register(plan.name, run.info.run_id, bundle, {}))


if __name__ == "__main__":
    main(sys.argv[1:])
