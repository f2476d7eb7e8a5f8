"""Faults a live run mixes in: what breaks, how often, and that each is what it says."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from features.catalog import load_plan
from features.contract import REASONS, Contract
from features.errors import ContractError
from penstock.generator.faults import BROKEN_KINDS, NO_FAULTS, Faults, broken
from penstock.generator.payments import Payments, PaymentWorld, to_us
from penstock.generator.records import BROKEN, COPY, PAYMENT, RawRecord, RecordWriter
from penstock.generator.rhythm import DAY_US

PLAN = load_plan("card_fraud")
START = datetime(2026, 2, 2, tzinfo=UTC)
PARTITIONS = 4


def ten_days() -> Payments:
    world = PaymentWorld(1, 1000, None, 2000.0, START)
    return world.payments(world.start_us, world.start_us + 10 * DAY_US)


def records(faults: Faults, seed: int = 1) -> list[RawRecord]:
    writer = RecordWriter(seed, faults, PLAN.lateness_us, PARTITIONS, PARTITIONS)
    return sorted(writer.payments(ten_days()), key=lambda record: record.send_us)


def arrivals(sent: list[RawRecord]) -> Counter[str]:
    """How ingest must judge each valid record, by the order within its partition."""
    newest: dict[int, int] = {}
    found: Counter[str] = Counter()
    for record in sent:
        if record.what == BROKEN:
            continue
        behind_us = newest.get(record.partition, 0) - record.event_time_us
        late, back = behind_us > PLAN.lateness_us, behind_us > 0
        kind = "late" if late else "out of order" if back else "in order"
        found[f"{record.what} {kind}"] += 1
        newest[record.partition] = max(newest.get(record.partition, 0), record.event_time_us)
    return found


def test_run_of_twenty_thousand_has_enough_of_every_fault() -> None:
    sent = records(Faults())
    assert sum(record.what == PAYMENT for record in sent) == pytest.approx(20_000, rel=0.1)
    found = arrivals(sent)
    assert found["payment out of order"] >= 150
    assert found["payment late"] >= 150
    assert sum(record.what == COPY for record in sent) >= 150
    kinds = Counter(record.says for record in sent if record.what == BROKEN)
    assert set(kinds) == set(BROKEN_KINDS)
    assert min(kinds.values()) >= 3


def test_copies_are_the_same_bytes_and_never_late() -> None:
    sent = records(Faults())
    originals = {r.number: r.value for r in sent if r.what == PAYMENT}
    copies = [r for r in sent if r.what == COPY]
    assert all(originals[copy.number] == copy.value for copy in copies)
    assert len({copy.number for copy in copies}) == len(copies)
    assert arrivals(sent)["copy late"] == 0


def test_without_faults_everything_comes_once_and_in_order() -> None:
    found = arrivals(records(NO_FAULTS))
    assert set(found) == {"payment in order"}


def test_faults_follow_their_seed_and_not_the_cutting_of_a_run() -> None:
    payments = ten_days()
    writer = RecordWriter(1, Faults(), PLAN.lateness_us, PARTITIONS, PARTITIONS)
    middle = slice(None, 7000), slice(7000, None)
    pieces = [r for rows in middle for r in writer.payments(payments.take(rows))]
    assert sorted(pieces, key=lambda record: record.send_us) == records(Faults())
    assert [r.send_us for r in records(Faults(), seed=2)] != [r.send_us for r in pieces]


def test_valid_records_keep_the_contract_and_carry_their_key() -> None:
    contract = Contract(PLAN, PLAN.event_topic)
    payments = ten_days()
    sent = [r for r in records(NO_FAULTS) if r.what == PAYMENT]
    table = payments.table().to_pylist()
    for record, row in zip(sent, table, strict=True):
        values = dict(zip(contract.names, contract.read(record.value), strict=True))
        assert values["transaction_id"] == row["event_id"]
        assert values["event_time"] == row["event_time_us"]
        assert values["amount"] == row["amount_minor"]
        assert record.key.decode() == values["customer_id"]


def test_labels_keep_the_contract() -> None:
    world = PaymentWorld(1, 1000, None, 2000.0, START)
    labels = world.labels(world.start_us, world.start_us + 10 * DAY_US)
    writer = RecordWriter(1, Faults(), PLAN.lateness_us, PARTITIONS, PARTITIONS)
    contract = Contract(PLAN, PLAN.label_topic)
    rows = labels.table().to_pylist()
    for record, row in zip(writer.labels(labels), rows, strict=True):
        values = dict(zip(contract.names, contract.read(record.value), strict=True))
        assert values["transaction_id"] == row["event_id"]
        assert values["event_time"] == row["event_time_us"]
        assert values["terminal_id"] == record.key.decode() == row["terminal_id"]
        assert values["is_fraud"] is row["is_fraud"]
        assert record.send_us == row["known_time_us"]


@pytest.mark.parametrize("kind", BROKEN_KINDS)
def test_broken_record_is_refused_for_the_reason_it_names(kind: str) -> None:
    assert kind in REASONS
    record = {
        "transaction_id": "p1",
        "event_time": "2026-01-05T12:34:56.789012Z",
        "customer_id": "c1",
        "terminal_id": "t1",
        "amount": {"minor": 1234, "currency": "EUR"},
    }
    contract = Contract(PLAN, PLAN.event_topic)
    now_us = to_us(START + timedelta(days=365))

    def judge() -> None:
        time_us = contract.read(broken(kind, record))[1]
        contract.check_not_future(time_us, now_us)

    with pytest.raises(ContractError) as refused:
        judge()
    assert refused.value.reason == kind


def test_every_reason_of_the_contract_is_provoked() -> None:
    assert set(BROKEN_KINDS) == set(REASONS)
