import pyarrow as pa
import pytest
from confluent_kafka import Message, TopicPartition

from features import wire
from features.errors import WireError
from serving.intake import NOTHING_TAKEN, mark_of, take
from tests.serving.parts import new_plan, rows_of

PLAN = new_plan()


def message(rows, partition=0, offset=0):
    return Message(
        topic=PLAN.features_topic,
        partition=partition,
        offset=offset,
        value=wire.encode(PLAN, rows),
    )


def ids(batch):
    return batch.rows.column("event_id").to_pylist()


def test_rows_are_taken_once_within_and_across_envelopes():
    messages = [
        message(rows_of(PLAN, 0, 5), offset=10),
        message(rows_of(PLAN, 3, 4), offset=11),
        message(rows_of(PLAN, 0, 2), offset=12),
    ]
    batch = take(PLAN, messages, {})
    assert ids(batch) == [f"e{i}" for i in range(7)]
    assert batch.skipped["repeated"] == 4
    assert batch.marks == {0: wire.seq_of(6, 0)}
    again = take(PLAN, messages, batch.marks)
    assert ids(again) == []
    assert [(place.partition, place.offset) for place in again.offsets] == [(0, 13)]
    assert mark_of(again.offsets[0]) == wire.seq_of(6, 0)


def test_each_partition_has_its_own_mark():
    batch = take(
        PLAN,
        [message(rows_of(PLAN, 5, 1), partition=2), message(rows_of(PLAN, 3, 1), partition=1)],
        {1: wire.seq_of(3, 0)},
    )
    assert ids(batch) == ["e5"]
    assert batch.marks == {2: wire.seq_of(5, 0), 1: wire.seq_of(3, 0)}


def test_labels_versions_duplicates_and_late_rows_are_not_scored_but_move_the_mark():
    label = rows_of(PLAN, 1, 1, kind=wire.KIND_LABEL)
    duplicate = rows_of(PLAN, 2, 1, verdict=wire.DUPLICATE)
    late = rows_of(PLAN, 3, 1, verdict=wire.LATE)
    version = rows_of(PLAN, 4, 1, kind=wire.KIND_REFERENCE)
    rows = [rows_of(PLAN, 0, 1), label, duplicate, late, version]
    envelope = pa.Table.from_batches(rows).combine_chunks().to_batches()[0]
    batch = take(PLAN, [message(envelope)], {})
    assert ids(batch) == ["e0"]
    assert batch.skipped == {
        "repeated": 0,
        "label": 1,
        "reference": 1,
        "duplicate": 1,
        "late": 1,
    }
    assert batch.marks == {0: wire.seq_of(4, 0)}


def test_an_empty_envelope_keeps_the_mark():
    batch = take(PLAN, [message(rows_of(PLAN, 0, 0))], {0: 42})
    assert batch.rows.num_rows == 0
    assert batch.marks == {0: 42}


def test_a_damaged_envelope_is_named_by_its_place():
    damaged = Message(topic=PLAN.features_topic, partition=3, offset=9, value=b"PSK1nonsense")
    with pytest.raises(WireError, match=rf"{PLAN.features_topic} \[3\] offset 9"):
        take(PLAN, [damaged], {})


def test_the_mark_is_read_from_the_committed_offset_and_nothing_else():
    assert mark_of(TopicPartition("t", 0, 7, metadata="123")) == 123
    assert mark_of(TopicPartition("t", 0, -1001)) == NOTHING_TAKEN
    with pytest.raises(WireError, match="another program"):
        mark_of(TopicPartition("t", 0, 7, metadata="hello"))
