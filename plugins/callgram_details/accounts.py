"""Accounts: operators who log in, and bearer tokens of programs. Passwords are hashed by Argon2, tokens by SHA-256.

A token is random and long, so a fast hash is enough; a password is neither.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from functools import cache
from typing import TYPE_CHECKING

import msgspec

from callgram_details.keys import Vault

if TYPE_CHECKING:
    from argon2 import PasswordHasher

OPERATOR, TOKEN = "operator:", "token:"
_BEARER = re.compile(r"cg_([0-9a-f]{8})_([0-9a-f]{48})")


class Operator(msgspec.Struct, frozen=True, kw_only=True):
    """``enterprises`` ``None``: all. ``masked``: sees no outside number in full."""

    login: str
    password_hash: str
    enterprises: tuple[str, ...] | None = ()
    masked: bool = False

    @property
    def seal(self) -> str:
        """Changes with the password: what a session is bound to."""
        return hashlib.sha256(self.password_hash.encode()).hexdigest()[:16]


class ApiToken(msgspec.Struct, frozen=True, kw_only=True):
    """A bearer token of one enterprise, without the token."""

    id: str
    enterprise: str
    digest: str
    masked: bool = False


def new_operator(login: str, password: str, enterprises: tuple[str, ...] | None, *, masked: bool) -> tuple[str, bytes]:
    """``(key, value)`` to keep."""
    one = Operator(login=login, password_hash=_hasher().hash(password), enterprises=enterprises, masked=masked)
    return OPERATOR + login, msgspec.json.encode(one)


def new_token(enterprise: str, *, masked: bool) -> tuple[str, str, bytes]:
    """``(the token, which is shown once, key, value)``."""
    number, secret = secrets.token_hex(4), secrets.token_hex(24)
    one = ApiToken(id=number, enterprise=enterprise, digest=_digest(secret), masked=masked)
    return f"cg_{number}_{secret}", TOKEN + number, msgspec.json.encode(one)


def read_operator(value: bytes) -> Operator:
    return msgspec.json.decode(value, type=Operator)


def read_token(value: bytes) -> ApiToken:
    return msgspec.json.decode(value, type=ApiToken)


def operator_of(vault: Vault, login: str) -> Operator | None:
    value = vault.get(OPERATOR + login)
    return read_operator(value) if value else None


def token_of(vault: Vault, bearer: str) -> ApiToken | None:
    found = _BEARER.fullmatch(bearer)
    value = vault.get(TOKEN + found.group(1)) if found else None
    if found is None or value is None:
        return None
    one = read_token(value)
    return one if secrets.compare_digest(one.digest, _digest(found.group(2))) else None


async def logged_in(vault: Vault, login: str, password: str) -> Operator | None:
    """The operator whose password this is. Takes as long for one that there is not; hashing runs in a thread."""
    one = operator_of(vault, login)
    right = await asyncio.to_thread(_verify, one.password_hash if one else None, password)
    return one if right else None


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher  # 40 ms: not for `callgram --help`

    return PasswordHasher(time_cost=2, memory_cost=19_456, parallelism=1)  # OWASP's least for Argon2id


@cache
def _nobody() -> str:
    return _hasher().hash("nobody has this password")


def _verify(password_hash: str | None, password: str) -> bool:
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return _hasher().verify(password_hash or _nobody(), password) and password_hash is not None
    except (VerificationError, InvalidHashError):
        return False


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Throttle:
    """At most ``limit`` failures in a minute by one name or address; the oldest of very many are forgotten."""

    def __init__(self, limit: int = 5, most: int = 10_000) -> None:
        self._limit, self._most = limit, most
        self._failures: OrderedDict[str, list[float]] = OrderedDict()

    def is_open(self, *names: str) -> bool:
        now = time.monotonic()
        return all(sum(now - moment < 60.0 for moment in self._failures.get(name, ())) < self._limit for name in names)

    def note(self, *names: str) -> None:
        for name in names:
            failures = self._failures.setdefault(name, [])
            failures.append(time.monotonic())
            del failures[: -self._limit]
            self._failures.move_to_end(name)
            while len(self._failures) > self._most:
                self._failures.popitem(last=False)
