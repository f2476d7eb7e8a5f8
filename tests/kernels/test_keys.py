"""The table of keys: one slot a key, told apart by every byte, however often it grows."""

import numpy as np
from numpy.typing import NDArray

from kernels import keys
from kernels.keys import Keys


def buffers(texts: list[bytes]) -> tuple[NDArray[np.int32], NDArray[np.uint8]]:
    offsets = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    return offsets, np.frombuffer(b"".join(texts) + b" ", np.uint8)


def slots(texts: list[bytes], known: Keys, count: int) -> tuple[list[int], Keys, int]:
    """Slots of the texts; the table is doubled whenever it is full."""
    out = np.full(len(texts), -1)
    done = 0
    while True:
        done, count = keys.find(done, *buffers(texts), known, count, out)
        if done == len(texts):
            return out.tolist(), known, count
        larger = keys.empty(2 * len(known.hash) + 1, 2 * len(known.text) + len(texts[done]))
        keys.copy(known, np.arange(count), larger)
        known = larger


def test_slots_are_given_in_the_order_of_first_sight() -> None:
    texts = [b"b", b"a", b"b", b"", b"aa", b"", b"a"]
    assert slots(texts, keys.empty(1, 1), 0)[0] == [0, 1, 0, 2, 3, 2, 1]


def test_growing_table_tells_every_key_apart() -> None:
    texts = [str(i).encode() * (i % 4 + 1) for i in range(3000)]
    names = list(dict.fromkeys(texts))
    found, known, count = slots(texts * 2, keys.empty(1, 1), 0)
    assert found == [names.index(text) for text in texts] * 2
    assert count == len(names)
    assert bytes(known.text[known.end[7] : known.end[8]]) == names[7]


def test_copy_keeps_some_keys_in_their_order() -> None:
    _, known, _ = slots([b"a", b"bb", b"c", b"dd"], keys.empty(4, 10), 0)
    fewer = keys.empty(4, 10)
    keys.copy(known, np.array([1, 3]), fewer)
    assert slots([b"dd", b"bb", b"a"], fewer, 2)[0] == [1, 0, 2]


def test_look_up_finds_known_keys_and_adds_none() -> None:
    names = list(dict.fromkeys(str(i).encode() * (i % 4 + 1) for i in range(300)))
    _, known, _ = slots(names, keys.empty(1, 1), 0)
    before = known.place.copy()
    asked = [b"299", b"", b"7777", b"777", b"8", b"4x", b"1111111", names[17], b"0" * 40]
    out = np.full(len(asked), 77)
    keys.look_up(*buffers(asked), known, out)
    expected = [names.index(text) if text in names else -1 for text in asked]
    assert out.tolist() == expected
    assert {-1} < set(expected)
    out = np.full(len(names), 77)
    keys.look_up(*buffers(names), known, out)
    assert out.tolist() == list(range(len(names)))
    assert known.place.tolist() == before.tolist()


def test_look_up_tells_keys_of_one_hash_apart() -> None:
    _, known, _ = slots([b"aa", b"bb", b"cc"], keys.empty(3, 6), 0)
    # As if all three, and what is looked for, had met.
    known.hash[:] = [keys.hash_string(np.frombuffer(b"cc", np.uint8), 0, 2)] * 3
    known.place[:] = 0
    known.place[[(int(known.hash[0]) + i) % len(known.place) for i in range(3)]] = [1, 2, 3]
    out = np.full(1, 77)
    keys.look_up(*buffers([b"cc"]), known, out)
    assert out.tolist() == [2]
