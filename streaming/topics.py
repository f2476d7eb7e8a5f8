"""Creates the topics of a plan and registers the schemas of its raw topics."""

from __future__ import annotations

import json
import time
from typing import Any

import httpx
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

from features.contract import event_schema, label_schema, reference_schema
from features.errors import PenstockError, ServiceUnavailableError
from features.plan import Plan
from features.settings import settings
from features.wire import dead_letter_topic, late_topic
from streaming.broker import admin

MAX_DEAD_LETTER_BYTES = 2 * 1024 * 1024
"""A dead letter is a raw record (1 MiB at most) with headers that say why it lies there."""

_PROPAGATION_S = 15.0


def ensure(plan: Plan) -> list[str]:
    """Create what is missing; running it again changes nothing.

    Returns:
        A line for each topic created and each schema registered.

    Raises:
        ServiceUnavailableError: the brokers or the registry do not answer.
        PenstockError: a topic exists with another number of partitions.
    """
    return [*_create_topics(plan), *_register_schemas(plan)]


def new_topics(plan: Plan) -> list[NewTopic]:
    """Every topic of a plan, as it is to be created."""
    # Latency, lateness of labels and the judgement "in the future" go by the broker's clock.
    users = {"message.timestamp.type": "LogAppendTime"}
    letters = users | {"max.message.bytes": str(MAX_DEAD_LETTER_BYTES)}
    partitions = plan.partitions
    return [
        *(NewTopic(topic, partitions, config=users) for topic in plan.raw_topics),
        *(
            NewTopic(dead_letter_topic(topic), partitions, config=letters)
            for topic in plan.raw_topics
        ),
        NewTopic(late_topic(plan.event_topic), partitions, config=users),
        NewTopic(plan.scored_topic, partitions, config=users),
        *(NewTopic(stage.topic, partitions) for stage in plan.stages),
        NewTopic(plan.features_topic, partitions),
        NewTopic(plan.drift_topic, 1, config=users),
    ]


def _create_topics(plan: Plan) -> list[str]:
    client = admin()
    wanted = new_topics(plan)
    held = _listed(client)
    _check_partitions(plan, wanted, held)
    missing = [topic for topic in wanted if topic.topic not in held]
    if not missing:
        return []
    created = []
    for name, outcome in client.create_topics(missing, operation_timeout=15).items():
        try:
            outcome.result()
        except KafkaException as error:
            # Somebody else may create the same topics at the same time.
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise PenstockError(
                    f"topic {name!r} cannot be created: {error.args[0].str()}"
                ) from error
        else:
            created.append(f"topic {name}")
    # Brokers learn of new topics a moment after they are created.
    until = time.monotonic() + _PROPAGATION_S
    while any(topic.topic not in held for topic in wanted) and time.monotonic() < until:
        time.sleep(0.1)
        held = _listed(client)
    _check_partitions(plan, wanted, held)
    return created


def _listed(client: AdminClient) -> dict[str, int]:
    """Partitions by topic."""
    try:
        topics = client.list_topics(timeout=10).topics
    except KafkaException:
        raise ServiceUnavailableError(
            f"no broker answers at {settings().kafka_bootstrap}; start one with `penstock up kafka`"
        ) from None
    return {name: len(topic.partitions) for name, topic in topics.items()}


def _check_partitions(plan: Plan, wanted: list[NewTopic], held: dict[str, int]) -> None:
    for topic in wanted:
        partitions = held.get(topic.topic, topic.num_partitions)
        if partitions != topic.num_partitions:
            raise PenstockError(
                f"topic {topic.topic!r} has {partitions} partitions, the plan of {plan.name!r} "
                f"has {topic.num_partitions}; give the feature set another version or its event "
                "another topic"
            )


def _register_schemas(plan: Plan) -> list[str]:
    schemas = {plan.event_topic: event_schema(plan)}
    if plan.label:
        schemas[plan.label_topic] = label_schema(plan)
    schemas |= {each.topic: reference_schema(plan, each.topic) for each in plan.references}
    base = settings().schema_registry_url.rstrip("/")
    registered = []
    # Addresses come from settings alone, so no proxy of the environment may stand between.
    with httpx.Client(trust_env=False, timeout=15) as client:
        for topic, schema in schemas.items():
            url = f"{base}/subjects/{topic}-value"
            body = {"schemaType": "JSON", "schema": json.dumps(schema)}
            if not _is_registered(client, url, body):
                _post(client, f"{url}/versions", body)
                registered.append(f"schema {topic}-value")
    return registered


def _is_registered(client: httpx.Client, url: str, body: dict[str, str]) -> bool:
    return _send(client, url, body).status_code == httpx.codes.OK


def _post(client: httpx.Client, url: str, body: dict[str, str]) -> None:
    answer = _send(client, url, body)
    if answer.is_error:
        raise PenstockError(
            f"the schema registry refused {url}: {answer.status_code} {answer.text[:200]}"
        )


def _send(client: httpx.Client, url: str, body: dict[str, Any]) -> httpx.Response:
    try:
        return client.post(
            url, json=body, headers={"Content-Type": "application/vnd.schemaregistry.v1+json"}
        )
    except httpx.TransportError as error:
        raise ServiceUnavailableError(
            f"the schema registry does not answer at {settings().schema_registry_url} ({error}); "
            "start one with `penstock up registry`"
        ) from None
