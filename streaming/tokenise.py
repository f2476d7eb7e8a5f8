"""Replaces personal identifiers by keyed hashes before anything of ours stores them.

A token is stable under one key, so windows by a tokenised entity and point look-ups still work;
without the key it tells nothing and cannot be rebuilt by hashing guessed identifiers.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from features.errors import PenstockError
from streaming.settings import StreamingSettings

TOKEN_DIGITS = 32
"""128 of the 256 bits: collisions stay out of reach below 10^18 identifiers."""

KEY_ID_DIGITS = 8
_MINIMAL_KEY_BYTES = 16
_CACHED_TOKENS = 65_536
"""About 12 MB; a hash costs three times a look-up and a few keys make most of a stream."""


class Tokeniser:
    """HMAC-SHA-256 under one key, as hex digits.

    Args:
        key: at least 16 secret bytes; another key gives other tokens, so state built under one
            cannot be used under another.
    """

    def __init__(self, key: bytes) -> None:
        if len(key) < _MINIMAL_KEY_BYTES:
            raise PenstockError(
                f"the token key has {len(key)} bytes, at least {_MINIMAL_KEY_BYTES} are needed; "
                "make one with `openssl rand -hex 32`"
            )
        self._key = key
        self.key_id = hashlib.sha256(key).hexdigest()[:KEY_ID_DIGITS]
        """Tells keys apart; it says nothing of the key itself."""
        self._known: dict[str, str] = {}

    @classmethod
    def from_settings(cls) -> Tokeniser:
        """The tokeniser under `PENSTOCK_TOKEN_KEY`.

        Raises:
            PenstockError: the key is unset, is no hex, or is too short.
        """
        digits = StreamingSettings().token_key.get_secret_value()
        if not digits:
            raise PenstockError(
                "PENSTOCK_TOKEN_KEY is not set; `penstock up` makes one for the local stack, "
                "elsewhere take it from your secret store (hex digits of 32 random bytes)"
            )
        try:
            key = bytes.fromhex(digits)
        except ValueError:
            raise PenstockError(
                "PENSTOCK_TOKEN_KEY is not hexadecimal; make one with `openssl rand -hex 32`"
            ) from None
        return cls(key)

    def token(self, text: str) -> str:
        """The token of an identifier: 32 lower-case hex digits."""
        known = self._known.get(text)
        if known is None:
            digest = hmac.digest(self._key, text.encode(), "sha256")
            known = digest.hex()[:TOKEN_DIGITS]
            if len(self._known) >= _CACHED_TOKENS:
                self._known.clear()
            self._known[text] = known
        return known

    def tokens(self, texts: Sequence[str]) -> list[str]:
        """The token of each of some identifiers."""
        known = self._known.get
        return [known(text) or self.token(text) for text in texts]
