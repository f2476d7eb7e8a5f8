"""The training loop: one process per device under torchrun, gradients averaged by DDP.

    torchrun --standalone --nproc-per-node 2 -m training.loop --job <folder>/job.json

gloo on CPUs, NCCL where every process has a GPU of its own. Every rank reads the same
memory-mapped rows, takes its share of each epoch's permutation and scores its share of the held-out
rows, so all ranks see the same measure and stop at the same epoch. Rank 0 alone writes: curves to
MLflow, progress to standard error, the best weights and the exported graph to disk.
"""

import argparse
import os
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from features.bundle import WEIGHTS
from training import export, rendezvous
from training.dataset import labels_of, matrix, read_part
from training.job import Job, Outcome
from training.models import tabular
from training.ranking import average_precision
from training.tracking import Tracker

HOLDOUT_ONE_IN = 10
"""One training row in ten decides when to stop; the validation days stay untouched for that, so
comparing models on them is fair."""


class Curves:
    """Writes one point per epoch to the MLflow run and to standard error."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.tracker = Tracker(job.mlflow_uri, job.run_id) if job.run_id else None

    def add(self, epoch: int, loss: float, precision: float, seconds: float) -> None:
        """One epoch's training loss and held-out average precision."""
        print(
            f"epoch {epoch + 1}/{self.job.epochs}  loss {loss:.5f}  "
            f"held-out average precision {precision:.4f}  {seconds:.1f} s",
            file=sys.stderr,
            flush=True,
        )
        if self.tracker is not None:
            values = {"train_loss": loss, "holdout_average_precision": precision}
            self.tracker.metrics(values, step=epoch)


def train(job: Job, rank: int, world: int, device: torch.device) -> None:
    """Train inside an initialised process group and leave the model's files in the folder."""
    started = time.monotonic()
    folder = Path(job.folder)
    torch.manual_seed(job.seed)
    table = read_part(folder, "train")
    features = torch.from_numpy(matrix(table, job.columns))
    labels = torch.from_numpy(labels_of(table).astype(np.float32))
    held_out = torch.rand(labels.numel(), generator=_generator(job.seed)) * HOLDOUT_ONE_IN < 1
    model = tabular.TabularNet(len(job.columns), job.config)
    model.fit_inputs(features[~held_out])
    held_features, held_labels = features[held_out].to(device), labels[held_out].to(device)
    features, labels = features[~held_out].to(device), labels[~held_out].to(device)
    model.to(device)
    parallel = DistributedDataParallel(model)
    weight = torch.tensor(tabular.positive_weight(labels, job.config), device=device)
    batch = min(job.config.batch_rows, max(1, labels.numel() // world))
    steps = max(1, labels.numel() // (batch * world))
    optimiser = torch.optim.AdamW(
        parallel.parameters(), lr=job.config.learning_rate, weight_decay=job.config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, job.config.learning_rate, total_steps=job.epochs * steps
    )
    curves = Curves(job) if rank == 0 else None
    best, best_epoch = -1.0, -1
    for epoch in range(job.epochs):
        parallel.train()  # type: ignore[no-untyped-call]
        order = torch.randperm(labels.numel(), generator=_generator(job.seed + 1 + epoch))
        mine = order[rank::world].to(device)
        total = torch.zeros((), device=device)
        for step in range(steps):
            rows = mine[step * batch : (step + 1) * batch]
            loss = nn.functional.binary_cross_entropy_with_logits(
                parallel(features[rows]), labels[rows], pos_weight=weight
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            total += loss.detach()
        dist.all_reduce(total)
        logits = score_together(model, held_features, rank, world)
        precision = held_out_precision(held_labels, logits)
        if curves is not None:
            seconds = time.monotonic() - started
            curves.add(epoch, float(total) / (steps * world), precision, seconds)
        if precision > best:
            best, best_epoch = precision, epoch
            if rank == 0:
                _save(model, job.columns, folder)
        elif epoch - best_epoch >= job.patience:
            break
    if rank == 0:
        finished, _ = tabular.load(folder / WEIGHTS)
        validation = read_part(folder, "validation")
        difference = export.finish(
            finished, job.columns, matrix(validation, job.columns), labels_of(validation), folder
        )
        outcome = Outcome(
            best_epoch=best_epoch,
            holdout_average_precision=best,
            epochs=epoch + 1,
            processes=world,
            backend=dist.get_backend(),
            onnx_max_difference=difference,
            seconds=time.monotonic() - started,
        )
        (folder / "outcome.json").write_bytes(msgspec.json.encode(outcome))


def score_together(model: nn.Module, features: Tensor, rank: int, world: int) -> Tensor:
    """Logits of all rows [n] on every rank, each rank computing every world-th row."""
    model.eval()
    logits = torch.zeros(features.shape[0], device=features.device)
    with torch.no_grad():
        logits[rank::world] = model(features[rank::world])
    dist.all_reduce(logits)
    return logits


def held_out_precision(labels: Tensor, logits: Tensor) -> float:
    """Average precision; 0 when the held-out rows happen to hold no positive."""
    if not bool(labels.any()):
        return 0.0
    return average_precision(labels.cpu().numpy(), logits.cpu().numpy())


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _save(model: tabular.TabularNet, columns: list[str], folder: Path) -> None:
    partial = folder / "model.partial"
    tabular.save(model, columns, partial)
    partial.replace(folder / WEIGHTS)


def main() -> None:
    """Join the process group torchrun made and train."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--job", type=Path, required=True, help="the job as a JSON file")
    job = msgspec.json.decode(parser.parse_args().job.read_bytes(), type=Job)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    rank, world, device = rendezvous.join()
    try:
        train(job, rank, world, device)
    finally:
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
