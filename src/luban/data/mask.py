"""Masks personal data: each stretch becomes the name of its kind, as `<PHONE>`, and the rest stays byte for byte.

With a key it becomes a token as `<PHONE:Zm9v...>` that only the key turns back. Tokens are AES-SIV (RFC 5297): the same
value under the same key is the same token, so that masked rows can still be counted and joined; whoever has no key
learns that two values are equal, and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from luban.data.personal import KINDS, Finder, Personal, find_all
from luban.errors import BadRequest, MissingExtra, did_you_mean, install

KEY_BYTES = 64
"""AES-256 in SIV mode has two keys of 256 bits."""
_TOKEN = re.compile(r"<([A-Z][A-Z_]{0,40}):([A-Za-z0-9_-]{22,})>")


@dataclass(frozen=True, slots=True)
class Masked:
    """A text without its personal data, and what was found."""

    text: str
    found: tuple[Personal, ...]
    """In the text as it was, in its order."""


class Tokens:
    """Turns values into tokens and back, under one key."""

    def __init__(self, key: bytes) -> None:
        """Store the key.

        Args:
            key: 64 random bytes.

        Raises:
            BadRequest: it has another length.
            MissingExtra: the package `cryptography` is not installed.
        """
        if len(key) != KEY_BYTES:
            raise BadRequest(f"a key to mask with has {KEY_BYTES} bytes, and this one {len(key)}", hint=_NEW_KEY)
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESSIV
        except ModuleNotFoundError as error:
            raise MissingExtra(
                "tokens need the package cryptography, which is not installed", hint=install("mask")
            ) from error
        self._siv = AESSIV(key)

    @classmethod
    def from_file(cls, path: Path) -> Tokens:
        """Read a key as 128 hexadecimal digits from a file that only its owner may read.

        Raises:
            BadRequest: it is none, or others may read it.
        """
        try:
            if os.name == "posix" and path.stat().st_mode & 0o077:
                raise BadRequest(f"others may read {path}, which holds a key", hint=f"chmod 600 {path}")
            return cls(bytes.fromhex(path.read_text("ascii").strip()))
        except OSError as error:
            raise BadRequest(f"the key {path} can't be read: {error.strerror}", hint=_NEW_KEY) from error
        except ValueError as error:
            raise BadRequest(f"{path} holds no key", hint=_NEW_KEY) from error

    def token(self, kind: str, value: str) -> str:
        """Return the token of a value."""
        name = _name(kind)
        # AES-SIV takes no empty text, and a lone surrogate must come back as it was.
        sealed = self._siv.encrypt(value.encode("utf-8", "surrogatepass"), [name.encode()])
        return f"<{name}:{base64.urlsafe_b64encode(sealed).rstrip(b'=').decode()}>"

    def value(self, name: str, body: str) -> str | None:
        """Return the value of a token's two parts; None where it was not made with this key."""
        from cryptography.exceptions import InvalidTag

        try:
            sealed = base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))
            opened: bytes = self._siv.decrypt(sealed, [name.encode()])
            return opened.decode("utf-8", "surrogatepass")
        except (InvalidTag, binascii.Error, ValueError):
            return None


class Masker:
    """Masks texts. Threads may share it."""

    def __init__(
        self, kinds: Collection[str] = KINDS, *, tokens: Tokens | None = None, finders: Sequence[Finder] = ()
    ) -> None:
        """Store what is masked, and how.

        Args:
            kinds: what is masked.
            tokens: makes tokens that can be turned back; without it nothing can.
            finders: what looks beside the recognisers, e.g. a model that tags names.

        Raises:
            BadRequest: there is no such kind.
        """
        self.kinds = frozenset(wanted_kind(kind) for kind in sorted(kinds))
        self._tokens = tokens
        self._finders = tuple(finders)

    def mask(self, text: str) -> Masked:
        """Return a text without its personal data."""
        return self.mask_all([text])[0]

    def mask_all(self, texts: Sequence[str]) -> list[Masked]:
        """Return texts without their personal data; what looks beside the recognisers is asked for all at once."""
        found = find_all(texts, self.kinds, self._finders)
        return [self._masked(text, some) for text, some in zip(texts, found, strict=True)]

    def _masked(self, text: str, found: Sequence[Personal]) -> Masked:
        if not found:
            return Masked(text, ())
        parts, at = [], 0
        for one in found:
            parts += [text[at : one.start], self._instead(one.kind, text[one.start : one.end])]
            at = one.end
        return Masked("".join([*parts, text[at:]]), tuple(found))

    def _instead(self, kind: str, value: str) -> str:
        return f"<{_name(kind)}>" if self._tokens is None else self._tokens.token(kind, value)


def wanted_kind(kind: str) -> str:
    """Return a kind of personal data.

    Raises:
        BadRequest: it is none.
    """
    if kind not in KINDS:
        hint = did_you_mean(kind, KINDS) or f"kinds: {', '.join(KINDS)}"
        raise BadRequest(f"there is no kind {kind!r} of personal data", hint=hint)
    return kind


def unmask(text: str, tokens: Tokens) -> tuple[str, int, int]:
    """Turn tokens back into what they stand for.

    Returns:
        The text, how many tokens were turned back, and how many were not made with this key and are left.
    """
    done = left = 0

    def back(match: re.Match[str]) -> str:
        nonlocal done, left
        value = tokens.value(match[1], match[2])
        done, left = done + (value is not None), left + (value is None)
        return match[0] if value is None else value

    return _TOKEN.sub(back, text), done, left


def _name(kind: str) -> str:
    return re.sub("[^A-Z]+", "_", kind.upper()).strip("_") or "PERSONAL"


_NEW_KEY = "make one: (umask 077; python -c 'import secrets; print(secrets.token_hex(64))' > mask.key)"
