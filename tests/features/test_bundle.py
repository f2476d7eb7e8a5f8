"""The bundle manifest: what is packed is what is verified."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from features.bundle import MANIFEST, MODEL, REQUIRED, Manifest, sha256_of, verify, write_manifest
from features.catalog import load_plan
from features.errors import BundleError
from features.plan import Plan


@pytest.fixture
def plan() -> Plan:
    return load_plan("card_fraud")


def pack(folder: Path, plan: Plan) -> Manifest:
    for name in REQUIRED:
        (folder / name).write_bytes(f"content of {name}".encode())
    return write_manifest(
        folder,
        plan,
        thresholds={"review": 0.5},
        metrics={"average_precision": 0.7},
        dataset_fingerprint="d" * 64,
        environment={"python": "3.11"},
        git_commit="c" * 40,
        created="2025-01-01T00:00:00+00:00",
    )


def test_a_packed_folder_verifies_and_reads_back_what_was_written(
    plan: Plan, tmp_path: Path
) -> None:
    packed = pack(tmp_path, plan)
    assert verify(tmp_path, plan) == packed
    assert packed.columns == plan.column_names
    assert packed.files == {name: sha256_of(tmp_path / name) for name in REQUIRED}


def test_a_changed_file_is_refused_with_both_hashes(plan: Plan, tmp_path: Path) -> None:
    packed = pack(tmp_path, plan)
    (tmp_path / MODEL).write_bytes(b"another model")
    with pytest.raises(BundleError) as refused:
        verify(tmp_path, plan)
    assert packed.files[MODEL] in str(refused.value)
    assert sha256_of(tmp_path / MODEL) in str(refused.value)


def test_another_definition_is_refused_with_both_fingerprints(plan: Plan, tmp_path: Path) -> None:
    pack(tmp_path, plan)
    with pytest.raises(BundleError, match=rf"{plan.fingerprint}.*0123456789abcdef"):
        verify(tmp_path, replace(plan, fingerprint="0123456789abcdef"))


def test_columns_in_another_order_are_refused(plan: Plan, tmp_path: Path) -> None:
    pack(tmp_path, plan)
    with pytest.raises(BundleError, match="columns"):
        verify(tmp_path, replace(plan, columns=plan.columns[::-1]))


@pytest.mark.parametrize("name", REQUIRED)
def test_a_missing_file_is_refused(plan: Plan, tmp_path: Path, name: str) -> None:
    pack(tmp_path, plan)
    (tmp_path / name).unlink()
    with pytest.raises(BundleError, match=rf"{name} is missing"):
        verify(tmp_path, plan)


def test_packing_without_a_model_is_refused(plan: Plan, tmp_path: Path) -> None:
    pack(tmp_path, plan)
    (tmp_path / MODEL).unlink()
    with pytest.raises(BundleError, match=MODEL):
        write_manifest(
            tmp_path,
            plan,
            thresholds={},
            metrics={},
            dataset_fingerprint="",
            environment={},
            git_commit="",
            created="",
        )


def test_a_name_outside_the_folder_is_refused(plan: Plan, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    pack(folder, plan)
    (tmp_path / "outside").write_bytes(b"x")
    manifest = json.loads((folder / MANIFEST).read_bytes())
    manifest["files"]["../outside"] = sha256_of(tmp_path / "outside")
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match="outside it"):
        verify(folder, plan)


@pytest.mark.parametrize("content", [b"", b"{}", b'{"feature_set": 3}', b"\xff"])
def test_a_damaged_manifest_is_refused(plan: Plan, tmp_path: Path, content: bytes) -> None:
    pack(tmp_path, plan)
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(BundleError, match="not a bundle manifest"):
        verify(tmp_path, plan)


def test_a_folder_without_a_manifest_is_no_bundle(plan: Plan, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is not a bundle"):
        verify(tmp_path, plan)
