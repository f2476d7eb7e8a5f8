"""The raw records of a live run: JSON of payments and labels, in the order they are sent."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from features.wire import partition_of
from penstock.generator.faults import BROKEN_KINDS, FAULT_HEADER, Faults, broken, send_times
from penstock.generator.labels import Labels
from penstock.generator.payments import Payments, customer_ids, event_ids, terminal_ids

PAYMENT, COPY, BROKEN, LABEL = "payment", "copy", "broken", "label"


@dataclass(frozen=True, slots=True)
class RawRecord:
    """One record to send when event time reaches `send_us`."""

    send_us: int
    what: str  # payment, copy, broken, label
    partition: int
    key: bytes
    value: bytes
    event_time_us: int
    number: int
    says: str = ""  # the fault of a broken record, the verdict of a label
    headers: tuple[tuple[str, bytes], ...] = ()


class RecordWriter:
    """Turns payments and labels into raw records.

    Args:
        seed: of the faults.
        faults: which of them and how often.
        lateness_us: of the event's contract.
        event_partitions: of the raw event topic.
        label_partitions: of the raw label topic.
    """

    def __init__(
        self,
        seed: int,
        faults: Faults,
        lateness_us: int,
        event_partitions: int,
        label_partitions: int,
    ) -> None:
        self._seed = seed
        self._faults = faults
        self._lateness_us = lateness_us
        self._event_partitions = event_partitions
        self._label_partitions = label_partitions
        self._payments = 0

    def payments(self, payments: Payments) -> Iterator[RawRecord]:
        """Each payment, with copies and broken records between them."""
        times = send_times(
            self._faults, self._seed, payments.number, payments.event_time_us, self._lateness_us
        )
        rows = zip(
            payments.number.tolist(),
            event_ids(payments.number).to_pylist(),
            payments.event_time_us.tolist(),
            iso_times(payments.event_time_us),
            customer_ids(payments.customer).to_pylist(),
            terminal_ids(payments.terminal).to_pylist(),
            payments.amount_minor.tolist(),
            times.send_us.tolist(),
            times.copy_us.tolist(),
            strict=True,
        )
        for number, event_id, time_us, time, customer, terminal, minor, send_us, copy_us in rows:
            value = (
                f'{{"transaction_id":"{event_id}","event_time":"{time}","customer_id":"{customer}",'
                f'"terminal_id":"{terminal}","amount":{{"minor":{minor},"currency":"EUR"}}}}'
            ).encode()
            key = customer.encode()
            partition = partition_of(customer, self._event_partitions)
            yield RawRecord(send_us, PAYMENT, partition, key, value, time_us, number)
            if copy_us:
                yield RawRecord(copy_us, COPY, partition, key, value, time_us, number)
            self._payments += 1
            if self._faults.broken_every and self._payments % self._faults.broken_every == 0:
                turn = self._payments // self._faults.broken_every
                kind = BROKEN_KINDS[turn % len(BROKEN_KINDS)]
                record = {
                    "transaction_id": f"x{event_id}",
                    "event_time": time,
                    "customer_id": customer,
                    "terminal_id": terminal,
                    "amount": {"minor": minor, "currency": "EUR"},
                }
                yield RawRecord(
                    time_us,
                    BROKEN,
                    partition,
                    key,
                    broken(kind, record),
                    time_us,
                    number,
                    kind,
                    ((FAULT_HEADER, kind.encode()),),
                )

    def labels(self, labels: Labels) -> Iterator[RawRecord]:
        """Each label message, sent when it becomes known."""
        rows = zip(
            labels.number.tolist(),
            event_ids(labels.number).to_pylist(),
            labels.event_time_us.tolist(),
            iso_times(labels.event_time_us),
            terminal_ids(labels.terminal).to_pylist(),
            labels.is_fraud.tolist(),
            labels.known_time_us.tolist(),
            strict=True,
        )
        for number, event_id, time_us, time, terminal, is_fraud, known_us in rows:
            verdict = "true" if is_fraud else "false"
            value = (
                f'{{"transaction_id":"{event_id}","event_time":"{time}",'
                f'"terminal_id":"{terminal}","is_fraud":{verdict}}}'
            ).encode()
            partition = partition_of(terminal, self._label_partitions)
            key = terminal.encode()
            yield RawRecord(known_us, LABEL, partition, key, value, time_us, number, verdict)


def iso_times(time_us: NDArray[np.int64]) -> list[str]:
    """Times as RFC 3339 text with microseconds, UTC."""
    text = np.datetime_as_string(time_us.astype("datetime64[us]"), unit="us", timezone="UTC")
    found: list[str] = text.tolist()
    return found
