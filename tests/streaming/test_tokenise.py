import hashlib
import hmac

import pytest

from features.errors import PenstockError
from streaming.tokenise import Tokeniser


def test_token_is_the_first_half_of_hmac_sha256() -> None:
    key = bytes(range(32))
    expected = hmac.new(key, b"c42", hashlib.sha256).hexdigest()[:32]
    tokeniser = Tokeniser(key)
    assert tokeniser.token("c42") == expected
    assert tokeniser.token("c42") == expected
    assert Tokeniser(bytes(32)).token("c42") != expected


@pytest.mark.parametrize(
    ("value", "said"),
    [("", "not set"), ("xyz", "not hexadecimal"), ("00ff", "2 bytes, at least 16")],
)
def test_unusable_key_is_named(monkeypatch: pytest.MonkeyPatch, value: str, said: str) -> None:
    monkeypatch.setenv("PENSTOCK_TOKEN_KEY", value)
    with pytest.raises(PenstockError, match=said):
        Tokeniser.from_settings()


def test_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_TOKEN_KEY", "0a" * 32)
    assert Tokeniser.from_settings().token("x") == Tokeniser(b"\n" * 32).token("x")


def test_key_id_is_the_beginning_of_the_keys_hash() -> None:
    key = bytes(range(32))
    assert Tokeniser(key).key_id == hashlib.sha256(key).hexdigest()[:8]
