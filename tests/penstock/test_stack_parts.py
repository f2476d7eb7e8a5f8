"""Each part of the stack answers in its own protocol."""

import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic
from mlflow import MlflowClient

from monitoring.rules import ALERTS
from penstock.stack.services import SERVICE_PARTS
from penstock.stack.supervisor import members
from tests.conftest import SessionStack


def get(url: str) -> Any:
    with urllib.request.urlopen(url) as answer:
        return json.load(answer)


def eventually(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.2)


def test_kafka_keeps_what_is_produced(stack: SessionStack) -> None:
    bootstrap = stack.require("kafka").environment()["PENSTOCK_KAFKA_BOOTSTRAP"]
    admin = AdminClient({"bootstrap.servers": bootstrap})
    admin.create_topics([NewTopic("stack-probe", 2, 1)])["stack-probe"].result(10)
    producer = Producer({"bootstrap.servers": bootstrap, "transactional.id": "stack-probe"})
    producer.init_transactions(20)
    producer.begin_transaction()
    producer.produce("stack-probe", b"water", partition=1)
    producer.commit_transaction(20)
    consumer = Consumer(
        {
            "bootstrap.servers": bootstrap,
            "group.id": "stack-probe",
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.subscribe(["stack-probe"])
    try:
        message = consumer.poll(20)
    finally:
        consumer.close()
    assert message is not None
    assert (message.error(), message.value(), message.partition()) == (None, b"water", 1)


def test_redis_keeps_what_is_set(stack: SessionStack) -> None:
    client = redis.Redis.from_url(stack.require("redis").environment()["PENSTOCK_REDIS_URL"])
    client.set("stack-probe", "gate")
    assert client.get("stack-probe") == b"gate"
    client.close()


def test_registry_gives_a_schema_back(stack: SessionStack) -> None:
    url = stack.require("registry").environment()["PENSTOCK_SCHEMA_REGISTRY_URL"]
    schema = {"type": "object", "properties": {"amount": {"type": "integer"}}}
    request = urllib.request.Request(
        f"{url}/subjects/stack-probe-value/versions",
        json.dumps({"schemaType": "JSON", "schema": json.dumps(schema)}).encode(),
        {"Content-Type": "application/vnd.schemaregistry.v1+json"},
    )
    with urllib.request.urlopen(request) as answer:
        number = json.load(answer)["id"]
    with urllib.request.urlopen(f"{url}/schemas/ids/{number}") as answer:
        assert json.loads(json.load(answer)["schema"]) == schema


def test_mlflow_keeps_an_artifact_and_an_alias(stack: SessionStack, tmp_path: Path) -> None:
    uri = stack.require("mlflow").environment()["PENSTOCK_MLFLOW_URI"]
    client = MlflowClient(uri, uri)
    run = client.create_run("0")
    note = tmp_path / "note.txt"
    note.write_text("gate")
    client.log_artifact(run.info.run_id, str(note))
    client.create_registered_model("stack-probe")
    client.create_model_version("stack-probe", f"{run.info.artifact_uri}", run.info.run_id)
    client.set_registered_model_alias("stack-probe", "champion", "1")
    assert client.get_model_version_by_alias("stack-probe", "champion").version == "1"
    assert (stack.home / "mlflow/artifacts/0" / run.info.run_id / "artifacts/note.txt").exists()
    copy = client.download_artifacts(run.info.run_id, "note.txt", str(tmp_path / "copy"))
    assert Path(copy).read_text() == "gate"


def test_prometheus_reads_our_rules_and_our_services(stack: SessionStack) -> None:
    url = stack.require("prometheus").url("prometheus")
    groups = get(f"{url}/api/v1/rules")["data"]["groups"]
    names = {rule["name"] for group in groups for rule in group["rules"]}
    assert names == {alert.name for alert in ALERTS}

    def scraped() -> set[str]:
        targets = get(f"{url}/api/v1/targets?state=active")["data"]["activeTargets"]
        return {target["labels"]["job"] for target in targets}

    eventually(lambda: scraped() == {part.name for part in SERVICE_PARTS})


def test_alert_becomes_a_page(stack: SessionStack) -> None:
    url = stack.require("alertmanager", "page-recorder").url("alertmanager")
    alert = {"labels": {"alertname": "StackProbe", "severity": "warning"}}
    request = urllib.request.Request(
        f"{url}/api/v2/alerts",
        json.dumps([alert]).encode(),
        {"Content-Type": "application/json"},
    )
    urllib.request.urlopen(request).close()
    pages = stack.environment()["PENSTOCK_PAGES_URL"]
    eventually(lambda: any("StackProbe" in json.dumps(page) for page in get(pages)))


@pytest.mark.slow
def test_airflow_lets_anybody_of_this_machine_in(stack: SessionStack) -> None:
    url = stack.require("airflow").url("airflow-api-server")
    request = urllib.request.Request(
        f"{url}/api/v2/dags",
        headers={"Authorization": f"Bearer {get(f'{url}/auth/token')['access_token']}"},
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    components = {
        name: part["status"] for name, part in get(f"{url}/api/v2/monitor/health").items()
    }
    assert components == dict.fromkeys(
        ("metadatabase", "scheduler", "triggerer", "dag_processor"), "healthy"
    )


def test_nothing_listens_beyond_this_machine(stack: SessionStack) -> None:
    stack.require("infra")
    outside = [
        f"{process.name()} at {connection.laddr}"
        for process in members(stack.home)
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
        and connection.laddr.ip not in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
    ]
    assert outside == []
