"""Sees whether a part answers, by the protocol that the part speaks."""

import json
import socket
import urllib.request
from http.client import HTTPException

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from penstock.stack.part import Part
from penstock.stack.site import Site

_TIMEOUT_S = 2.0

# The parts are on this machine or network: a proxy for the outside has no business here.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def is_ready(part: Part, site: Site) -> bool:
    """True when the part does its work now. Never raises for a part that is not there."""
    probe = part.probe
    host = site.host(part.name)
    try:
        match probe.kind:
            case "http":
                url = f"http://{host}:{site.port(part.name, probe.port)}{probe.path}"
                with _direct.open(url, timeout=_TIMEOUT_S) as answer:
                    return bool(answer.status == 200)
            case "redis":
                with socket.create_connection(
                    (host, site.port(part.name, probe.port)), timeout=_TIMEOUT_S
                ) as connection:
                    connection.sendall(b"PING\r\n")
                    return connection.recv(16).startswith(b"+PONG")
            case "kafka":
                return _kafka_answers(host, site.port(part.name, probe.port))
            case "airflow":
                return _airflow_is_healthy(site, probe.path)
    except (OSError, HTTPException, ValueError):
        return False


def _kafka_answers(host: str, port: int) -> bool:
    socket.create_connection((host, port), timeout=_TIMEOUT_S).close()
    try:
        client = AdminClient({"bootstrap.servers": f"{host}:{port}", "log_level": 0})
        return len(client.list_topics(timeout=_TIMEOUT_S).brokers) > 0
    except KafkaException:
        return False


def _airflow_is_healthy(site: Site, component: str) -> bool:
    address = site.address("airflow-api-server", "http")
    url = f"http://{address}/api/v2/monitor/health"
    with _direct.open(url, timeout=_TIMEOUT_S) as answer:
        health = json.load(answer)
    return bool(health.get(component, {}).get("status") == "healthy")
