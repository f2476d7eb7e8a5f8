"""Hashes of strings: stable, sensitive to every byte, and independent of where the text lies."""

import numpy as np

from kernels.identity import hash_strings


def hashes(texts: list[bytes], lead: bytes = b"") -> list[int]:
    ends = np.cumsum([len(lead), *map(len, texts)]).astype(np.int32)
    out = np.zeros(len(texts), np.int64)
    hash_strings(ends, np.frombuffer(lead + b"".join(texts) + b" ", np.uint8), out)
    return out.tolist()


def test_hash_is_stable() -> None:
    # A snapshot holds hashes: they must be the same after an upgrade.
    assert hashes([b"", b"t-1", "zażółć".encode()]) == STABLE


def test_every_byte_and_the_length_matter() -> None:
    texts = [bytes([byte]) * length for byte in range(256) for length in range(40)]
    assert len(set(hashes(texts))) == len(set(texts))


def test_place_of_the_text_does_not_matter() -> None:
    texts = [b"one", b"twelve bytes", b"exactly 16 bytes"]
    assert hashes(texts) == hashes(texts, lead=b"something before")


STABLE = [6177401009576564604, 238041029378794270, -1550915088027633618]
