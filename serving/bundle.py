"""A bundle made ready to score: verified, loaded, self-tested."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from features import bundle
from features.errors import BundleError
from features.plan import Plan
from monitoring.drift import DriftWatch, Reference, Watched
from serving.decision import Decisions
from serving.engines import OnnxEngine
from serving.settings import ServingSettings


@dataclass(frozen=True)
class LoadedBundle:
    """One model version in memory, replaced whole: a batch sees one version.

    `drift` is folded by the scorer alone, and starts anew with every version.
    """

    version: str
    manifest: bundle.Manifest
    engine: OnnxEngine
    decisions: Decisions
    drift: DriftWatch


def load(folder: Path, plan: Plan, version: str, options: ServingSettings) -> LoadedBundle:
    """Verifies the bundle in `folder` against the plan and loads it.

    Raises:
        BundleError: it belongs to another definition, is damaged, or its model fails the
            self-test.
    """
    manifest = bundle.verify(folder, plan)
    reference = folder / bundle.DRIFT_REFERENCE
    try:
        drift_reference = msgspec.json.decode(reference.read_bytes(), type=Reference)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BundleError(f"{reference} is no drift reference: {error}") from error
    drift = DriftWatch(
        drift_reference,
        plan.column_names,
        Watched(plan.name, plan.fingerprint, version),
        threshold=options.drift_threshold,
        minimum_rows=options.drift_minimum_rows,
        cooldown_s=options.drift_cooldown_s,
    )
    return LoadedBundle(
        version=version,
        manifest=manifest,
        engine=OnnxEngine(folder / bundle.MODEL, len(plan.columns)),
        decisions=Decisions(manifest.thresholds),
        drift=drift,
    )
