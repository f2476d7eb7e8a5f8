"""Each part of the stack answers in its own protocol."""

import json
import urllib.request

import redis
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from tests.conftest import SessionStack


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
