"""A feature set, models and rows for the tests of serving.

`python -m tests.serving.parts NAME` runs the scorer of the feature set of that name.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import onnx
from confluent_kafka import Consumer, KafkaError, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from onnx import TensorProto, helper

from features import bundle, wire
from features.settings import settings
from serving.scorer import Scorer
from serving.settings import ServingSettings
from tests.features.rows import batch
from tests.streaming.chain import plan_of

PATIENCE_S = 60.0
HOUR_US = 3_600_000_000
MONDAY_US = 1_767_571_200_000_000  # 2026-01-05T00:00Z


def new_plan():
    """A plan whose topics, group and model nobody else uses."""
    return plan_of(f"t{uuid.uuid4().hex[:10]}")


def write_model(path, columns, constant=None, weight=0.01, output="score"):
    """score = sigmoid(weight × (first column − 100)), or a constant."""
    weights = np.zeros((columns, 1), np.float32)
    bias = np.float32(-100 * weight)
    if constant is None:
        weights[0] = weight
    else:
        bias = np.float32(np.log(constant / (1 - constant)))
    nodes = [
        helper.make_node("MatMul", ["features", "w"], ["product"]),
        helper.make_node("Add", ["product", "b"], ["sum"]),
        helper.make_node("Sigmoid", ["sum"], ["wide"]),
        helper.make_node("Squeeze", ["wide", "axis"], [output]),
    ]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", columns])],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["n"])],
        [
            onnx.numpy_helper.from_array(weights, "w"),
            onnx.numpy_helper.from_array(bias, "b"),
            onnx.numpy_helper.from_array(np.array([1], np.int64), "axis"),
        ],
    )
    opsets = [helper.make_opsetid("", 17)]
    path.write_bytes(
        helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    )


def write_bundle(folder, plan, **model):
    """A bundle of `plan` whose reference holds prices around 100, and no other spread."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / bundle.MODEL, len(plan.columns), **model)
    (folder / bundle.WEIGHTS).write_bytes(b"weights")
    price = {"edges": [90.0, 100.0, 110.0], "counts": [1000, 1000, 1000, 1000]}
    still = {"edges": [], "counts": [4000]}
    reference = {
        "rows": 4000,
        "columns": dict.fromkeys(plan.column_names[1:], still)
        | {plan.column_names[0]: price, "score": still},
    }
    (folder / bundle.DRIFT_REFERENCE).write_text(json.dumps(reference))
    bundle.write_manifest(
        folder,
        plan,
        thresholds={"review": 0.5, "block": 0.9},
        metrics={},
        dataset_fingerprint="d",
        environment={},
        git_commit="",
        created="2026-01-05T00:00:00Z",
    )
    return folder


def register(plan, folder, alias="champion"):
    """Logs a bundle to MLflow and registers it; returns the version."""
    with httpx.Client(base_url=os.environ["PENSTOCK_MLFLOW_URI"], timeout=60) as client:

        def post(path, **content):
            return client.post(f"/api/2.0/mlflow/{path}", json=content)

        post("experiments/create", name=plan.name)
        experiment = client.get(
            "/api/2.0/mlflow/experiments/get-by-name", params={"experiment_name": plan.name}
        ).json()["experiment"]
        run = post("runs/create", experiment_id=experiment["experiment_id"]).json()["run"]["info"]
        place = run["artifact_uri"].removeprefix("mlflow-artifacts:")
        for path in folder.iterdir():
            client.put(
                f"/api/2.0/mlflow-artifacts/artifacts{place}/bundle/{path.name}",
                content=path.read_bytes(),
            ).raise_for_status()
        post("registered-models/create", name=plan.name)
        source = f"{run['artifact_uri']}/bundle"
        made = post("model-versions/create", name=plan.name, source=source, run_id=run["run_id"])
        version = str(made.json()["model_version"]["version"])
        post(
            "registered-models/alias", name=plan.name, alias=alias, version=version
        ).raise_for_status()
    return version


def rows_of(plan, first_row, count, price=100, **changed):
    """Finished rows as the last stage writes them; row i is event `e<i>` of person `p<i % 7>`."""
    return batch(
        plan,
        [
            {
                "event_id": f"e{i}",
                "event_time_us": MONDAY_US + i * 1_000_000 + 7,
                "origin_partition": i % 4,
                "origin_offset": i,
                "position_log": 3,
                "position_seq": wire.seq_of(i, 0),
                "broker_time_us": time.time_ns() // 1000,
                "person_id": f"p{i % 7}",
                "shop_id": "shop",
                "price": price,
            }
            | dict.fromkeys(plan.column_names[1:], 1.0)
            | changed
            for i in range(first_row, first_row + count)
        ],
    )


class Topics:
    """The topics of one plan: created, written as the last stage would, and read."""

    def __init__(self, plan):
        self.plan = plan
        self.bootstrap = settings().kafka_bootstrap
        self._producer = Producer({"bootstrap.servers": self.bootstrap})
        self._admin = AdminClient({"bootstrap.servers": self.bootstrap})
        held = self._admin.list_topics(timeout=20).topics
        new = [
            NewTopic(name, partitions)
            for name, partitions in (
                (plan.features_topic, plan.partitions),
                (plan.scored_topic, 2),
                (plan.drift_topic, 1),
            )
            if name not in held
        ]
        if new:
            for outcome in self._admin.create_topics(new).values():
                outcome.result(20)

    def send(self, rows, partition=0):
        """One envelope of the features topic."""
        self._producer.produce(
            self.plan.features_topic, wire.encode(self.plan, rows), partition=partition
        )
        assert self._producer.flush(20) == 0

    def read(self, topic, wanted=0, until=None, isolation="read_committed"):
        """The messages of a topic from its beginning, once `wanted` or `until(found)` is there.

        With neither it returns what is there now.
        """
        consumer = Consumer(
            {
                "bootstrap.servers": self.bootstrap,
                "group.id": f"reader-{uuid.uuid4()}",
                "auto.offset.reset": "earliest",
                "enable.auto.commit": False,
                "enable.partition.eof": True,
                "isolation.level": isolation,
            }
        )
        consumer.subscribe([topic])
        found, ended = [], set()
        partitions = set(self._admin.list_topics(topic, timeout=20).topics[topic].partitions)
        deadline = time.monotonic() + PATIENCE_S
        try:
            while time.monotonic() < deadline:
                enough = until(found) if until else len(found) >= wanted
                if enough and ended == partitions:
                    return found
                message = consumer.poll(0.2)
                if message is None:
                    continue
                if message.error():
                    if message.error().code() == KafkaError._PARTITION_EOF:
                        ended.add(message.partition())
                    continue
                found.append(message)
            raise AssertionError(f"{topic}: only {len(found)} messages after {PATIENCE_S:g} s")
        finally:
            consumer.close()

    def scores(self, wanted=0, until=None):
        """The JSON of the scored topic."""
        messages = self.read(
            self.plan.scored_topic,
            wanted,
            until and (lambda found: until([json.loads(m.value()) for m in found])),
        )
        return [json.loads(message.value()) for message in messages]


def wait_for(condition: Callable[[], object]) -> None:
    """Waits until the condition holds, and fails when it does not in time."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true"
        time.sleep(0.1)


@contextmanager
def scorer_process(plan, log: Path, **environment: str) -> Iterator[subprocess.Popen]:
    """The scorer as a process of its own; ended when the test leaves."""
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.serving.parts", plan.name],
            env=os.environ | environment,
            stdout=out,
            stderr=out,
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def main(name: str) -> None:
    logging.basicConfig(level=logging.INFO)
    scorer = Scorer(plan_of(name), settings().kafka_bootstrap, ServingSettings())
    signal.signal(signal.SIGTERM, lambda *_: scorer.stop())
    scorer.run()


if __name__ == "__main__":
    main(sys.argv[1])
