"""Engines made from a bundle's graph before it scores, and a record of what was made.

ONNX Runtime's optimised graph is saved and run against the plain one. TensorRT engines are built
ahead of time for the listed GPU generations, which needs no GPU; running them does, so the record
says `built`, never `verified`. What cannot be built is recorded with its reason.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import onnxruntime

from features import bundle
from features.bundle import sha256_of
from training import graph

COMPUTE_CAPABILITIES = ("SM89", "SM120")
"""The GPU generations an engine is built for: Ada and consumer Blackwell."""

MAX_ROWS = 4096
"""The largest batch a TensorRT engine takes."""

RECORD = "engines.json"


class Engine(msgspec.Struct, frozen=True, omit_defaults=True):
    """One entry of the record; `status` is `built`, `verified` or `absent`."""

    status: str
    reason: str = ""
    file: str = ""
    sha256: str = ""
    made_with: str = ""
    targets: list[str] = []


def compile_bundle(bundle_folder: Path, engines_folder: Path) -> dict[str, Engine]:
    """Build every engine this machine can, and write `engines.json` beside them."""
    engines_folder.mkdir(parents=True, exist_ok=True)
    for old in engines_folder.iterdir():
        old.unlink()
    model = bundle_folder / bundle.MODEL
    engines = {
        "onnxruntime": optimise_graph(
            model, probe_rows(bundle_folder), engines_folder / "optimised.onnx"
        ),
        "tensorrt_rtx": build_tensorrt(model, engines_folder / "tensorrt_rtx.engine"),
    }
    record = {"model_sha256": sha256_of(model), "engines": engines}
    (engines_folder / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record)))
    return engines


def probe_rows(bundle_folder: Path, rows: int = 512) -> npt.NDArray[np.float32]:
    """Rows drawn from the cut points of the drift reference, float32 [rows, k].

    The bundle alone is enough to test an engine with values of the size it will see.
    """
    manifest = bundle.read_manifest(bundle_folder)
    reference = json.loads((bundle_folder / bundle.DRIFT_REFERENCE).read_text())["columns"]
    generator = np.random.default_rng(0)
    columns = []
    for name in manifest.columns:
        edges = np.asarray(reference[name]["edges"] or [0.0])
        columns.append(generator.choice(edges, rows) * generator.uniform(0.5, 1.5, rows))
    return np.column_stack(columns).astype(np.float32)


def optimise_graph(model: Path, probes: npt.NDArray[np.float32], target: Path) -> Engine:
    """Save ONNX Runtime's optimised graph and compare it with the plain one.

    Raises:
        TrainingError: the two do not agree.
    """
    levels = onnxruntime.GraphOptimizationLevel
    plain = graph.run(graph.session(model, levels.ORT_DISABLE_ALL), probes)
    graph.session(model, levels.ORT_ENABLE_EXTENDED, target)
    optimised = graph.run(graph.session(target, levels.ORT_DISABLE_ALL), probes)
    difference = graph.check_equal(plain, optimised, f"ONNX Runtime's optimised graph of {model}")
    return Engine(
        status="verified",
        reason=f"differs by {difference:.2g} from the plain graph on {len(probes)} rows",
        file=target.name,
        sha256=sha256_of(target),
        made_with=f"onnxruntime {onnxruntime.__version__}",
        targets=["cpu"],
    )


def build_tensorrt(model: Path, target: Path) -> Engine:
    """Build one engine for all listed generations; says why where that is not possible."""
    try:
        trt: Any = import_module("tensorrt_rtx")
    except ImportError as error:
        return Engine(
            status="absent",
            reason=f"tensorrt_rtx cannot be imported ({error}); install the extra `gpu`",
        )
    logger = _errors_of(trt)
    try:
        blob = _serialized_engine(trt, logger, model)
    except RuntimeError as error:
        return Engine(status="absent", reason=f"TensorRT-RTX refused to build: {error}")
    if blob is None:
        return Engine(
            status="absent",
            reason="TensorRT-RTX refused to build: " + "; ".join(logger.lines or ["no reason"]),
        )
    target.write_bytes(blob)
    return Engine(
        status="built",
        reason="built ahead of time and not run here; the machine that loads it verifies it",
        file=target.name,
        sha256=sha256_of(target),
        made_with=f"tensorrt_rtx {trt.__version__}",
        targets=list(COMPUTE_CAPABILITIES),
    )


def _serialized_engine(trt: Any, logger: Any, model: Path) -> Any:
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model.read_bytes()):
        logger.lines.extend(parser.get_error(i).desc() for i in range(parser.num_errors))
        return None
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(COMPUTE_CAPABILITIES)
    for place, name in enumerate(COMPUTE_CAPABILITIES):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), place)
    columns = network.get_input(0).shape[1]
    profile = builder.create_optimization_profile()
    profile.set_shape("features", (1, columns), (256, columns), (MAX_ROWS, columns))
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def _errors_of(trt: Any) -> Any:
    """A TensorRT logger that keeps errors for the record instead of printing them."""

    class Errors(trt.ILogger):  # type: ignore[misc]  # the base comes from an optional library
        def __init__(self) -> None:
            super().__init__()
            self.lines: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.lines.append(message)

    return Errors()
