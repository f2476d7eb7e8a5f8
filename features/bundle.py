"""The manifest of a model bundle: what is in the folder, for which feature set, with which hashes.

Training writes it, serving verifies it before it reads any other file. Nothing in a bundle is
executed: the files are ONNX, safetensors and JSON.
"""

import hashlib
from pathlib import Path

import msgspec

from features.errors import BundleError
from features.plan import Plan

MANIFEST = "bundle.json"
MODEL = "model.onnx"
WEIGHTS = "model.safetensors"
DRIFT_REFERENCE = "drift_reference.json"
REQUIRED = (MODEL, WEIGHTS, DRIFT_REFERENCE)


class Manifest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The content of `bundle.json`.

    `thresholds` maps a decision to the lowest score that leads to it. `files` maps every other
    file's name to its SHA-256 in hex. `created` is an ISO time in UTC.
    """

    feature_set: str
    fingerprint: str
    columns: list[str]
    thresholds: dict[str, float]
    files: dict[str, str]
    metrics: dict[str, float]
    dataset_fingerprint: str
    environment: dict[str, str]
    git_commit: str
    created: str


def sha256_of(path: Path) -> str:
    """The file's SHA-256 in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_manifest(
    folder: Path,
    plan: Plan,
    *,
    thresholds: dict[str, float],
    metrics: dict[str, float],
    dataset_fingerprint: str,
    environment: dict[str, str],
    git_commit: str,
    created: str,
) -> Manifest:
    """Hash the folder's files and write `bundle.json` for them.

    Raises:
        BundleError: a file every bundle needs is missing.
    """
    manifest = Manifest(
        feature_set=plan.name,
        fingerprint=plan.fingerprint,
        columns=plan.column_names,
        thresholds=thresholds,
        files={
            path.name: sha256_of(path)
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name != MANIFEST
        },
        metrics=metrics,
        dataset_fingerprint=dataset_fingerprint,
        environment=environment,
        git_commit=git_commit,
        created=created,
    )
    _require_files(folder, manifest)
    (folder / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def read_manifest(folder: Path) -> Manifest:
    """Parse `bundle.json` without checking the files it names.

    Raises:
        BundleError: it is missing or is not a manifest.
    """
    path = folder / MANIFEST
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise BundleError(f"{path} is missing: {folder} is not a bundle") from None
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BundleError(f"{path} is not a bundle manifest: {error}") from error


def verify(folder: Path, plan: Plan) -> Manifest:
    """Check that the bundle belongs to the plan and that every file is the one that was packed.

    Raises:
        BundleError: names the two values that differ.
    """
    manifest = read_manifest(folder)
    expectations = (
        ("feature set", manifest.feature_set, plan.name),
        ("fingerprint", manifest.fingerprint, plan.fingerprint),
        ("columns", manifest.columns, plan.column_names),
    )
    for what, packed, wanted in expectations:
        if packed != wanted:
            raise BundleError(
                f"the bundle in {folder} was packed for the {what} {packed!r}, this process runs "
                f"{wanted!r}; train a model for this definition"
            )
    _require_files(folder, manifest)
    for name, packed_hash in manifest.files.items():
        if Path(name).name != name:
            raise BundleError(f"the bundle in {folder} names {name!r}, which lies outside it")
        path = folder / name
        if not path.is_file():
            raise BundleError(f"{path} is missing, the manifest lists it as {packed_hash}")
        found = sha256_of(path)
        if found != packed_hash:
            raise BundleError(
                f"{path} has SHA-256 {found}, the manifest says {packed_hash}; "
                "fetch the bundle again"
            )
    return manifest


def _require_files(folder: Path, manifest: Manifest) -> None:
    for name in REQUIRED:
        if name not in manifest.files:
            raise BundleError(
                f"the bundle in {folder} holds {sorted(manifest.files)} but no {name!r}; "
                "export the model again"
            )
