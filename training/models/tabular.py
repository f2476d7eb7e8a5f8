"""A multilayer perceptron over one feature vector, preprocessing and calibration included.

Whoever holds the module (or the graph exported from it) feeds raw feature values and reads a
probability; there is no second place where scaling could differ.

Shapes: n rows, k columns of the plan, h hidden units.
    features  float32 [n, k]   raw values in the plan's order
    logit     float32 [n]      before calibration; what the loss sees
    score     float32 [n]      calibrated probability
"""

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from training.models.config import TabularConfig


class TabularNet(nn.Module):
    """features → signed log1p where skewed → standardise → clip → MLP → Platt scaling → score."""

    log_columns: Tensor
    center: Tensor
    scale: Tensor
    platt_slope: Tensor
    platt_offset: Tensor

    def __init__(self, columns: int, config: TabularConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("log_columns", torch.zeros(columns))
        self.register_buffer("center", torch.zeros(columns))
        self.register_buffer("scale", torch.ones(columns))
        self.register_buffer("platt_slope", torch.ones(()))
        self.register_buffer("platt_offset", torch.zeros(()))
        layers: list[nn.Module] = []
        width = columns
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(config.dropout)]
            width = hidden
        self.layers = nn.Sequential(*layers, nn.Linear(width, 1))

    def compress(self, features: Tensor) -> Tensor:
        """Signed log1p on the skewed columns, the others unchanged; [n, k] → [n, k]."""
        logarithm = torch.sign(features) * torch.log1p(torch.abs(features))
        return torch.where(self.log_columns > 0, logarithm, features)

    def fit_inputs(self, features: Tensor) -> None:
        """Set the preprocessing buffers from training rows, float [n, k]."""
        exact = features.double()
        deviation = exact.std(dim=0, correction=0)
        safe = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
        skew = (((exact - exact.mean(dim=0)) / safe) ** 3).mean(dim=0)
        self.log_columns.copy_((skew.abs() > self.config.log_above_skew).to(torch.float32))
        compressed = self.compress(exact)
        deviation = compressed.std(dim=0, correction=0)
        self.center.copy_(compressed.mean(dim=0))
        # A constant column becomes zero instead of dividing by zero.
        self.scale.copy_(torch.where(deviation > 1e-9, deviation, torch.ones_like(deviation)))

    def forward(self, features: Tensor) -> Tensor:
        """The uncalibrated logit, float32 [n]."""
        standard = (self.compress(features) - self.center) / self.scale
        bound = self.config.clip_deviations
        hidden: Tensor = self.layers(torch.clamp(standard, -bound, bound))
        return hidden.squeeze(-1)

    def score(self, features: Tensor) -> Tensor:
        """The calibrated probability, float32 [n]."""
        return torch.sigmoid(self.platt_slope * self(features) + self.platt_offset)

    def calibrate(self, logits: Tensor, labels: Tensor) -> None:
        """Fit Platt's slope and offset so that `score` is a probability.

        J. Platt, Probabilistic Outputs for Support Vector Machines, 1999. The slope is kept
        positive, so calibration never changes an order.

        Args:
            logits: float [n], from `forward` in evaluation mode.
            labels: 0 or 1, [n].
        """
        x, y = logits.detach().double(), labels.double()
        # Parameters are the logarithm of the slope and the offset at the mean logit, which
        # are nearly independent of each other.
        middle = x.mean()
        log_slope = torch.zeros((), dtype=torch.float64, requires_grad=True)
        level = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [log_slope, level], max_iter=200, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            optimiser.zero_grad()
            z = torch.exp(log_slope) * (x - middle) + level
            value = nn.functional.binary_cross_entropy_with_logits(z, y)
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        slope = torch.exp(log_slope).detach()
        self.platt_slope.copy_(slope)
        self.platt_offset.copy_(level.detach() - slope * middle)


def positive_weight(labels: Tensor, config: TabularConfig) -> float:
    """Weight of a positive row in the loss: negatives over positives, square-rooted and capped."""
    positives = float(labels.sum())
    negatives = float(labels.numel()) - positives
    return max(1.0, min(config.max_positive_weight, math.sqrt(negatives / max(positives, 1.0))))


def save(model: TabularNet, columns: Sequence[str], path: Path) -> None:
    """Write weights, buffers, configuration and column names to one safetensors file."""
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    metadata = {
        "config": msgspec.json.encode(model.config).decode(),
        "columns": msgspec.json.encode(list(columns)).decode(),
    }
    save_file(tensors, path, metadata=metadata)


def load(path: Path) -> tuple[TabularNet, list[str]]:
    """The model in evaluation mode and its column names, from a file `save` wrote."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    columns = msgspec.json.decode(metadata["columns"], type=list[str])
    model = TabularNet(len(columns), msgspec.json.decode(metadata["config"], type=TabularConfig))
    model.load_state_dict(tensors)
    return model.eval(), columns
