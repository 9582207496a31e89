"""Records that cannot be scored, by the thousand: for numeric features a to h, entity `machine`, time `ts`."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

FEATURES = ("a", "b", "c", "d", "e", "f", "g", "h")
ENTITY = "machine"
TIMESTAMP = "ts"
_FIRST_MS = 1_767_225_600_000


def good(index: int) -> bytes:
    """A record that can be scored: machine m0 to m6 in turn, a second apart, feature number k being index + k/8."""
    numbers = {name: index + place / 8 for place, name in enumerate(FEATURES)}
    return json.dumps({ENTITY: f"m{index % 7}", TIMESTAMP: _FIRST_MS + 1000 * index, **numbers}).encode()


def garbage(n: int, seed: int) -> list[bytes | None]:
    """n bad values of every kind, the same for a seed; from 1,000 on there are three documents of 1 MB among them."""
    chance = random.Random(seed)
    values = [chance.choice(_KINDS)(chance) for _ in range(n)]
    if n >= 1000:
        for make, at in zip(_HUGE, chance.sample(range(n), len(_HUGE)), strict=True):
            values[at] = make()
    return values


def _with(**changed: object) -> bytes:
    """A good record but for some fields; `...` takes one out."""
    record = {**json.loads(good(0)), **changed}
    return json.dumps({key: value for key, value in record.items() if value is not ...}).encode()


def _raw(field: str, text: bytes) -> bytes:
    """A good record with a field that reads `text`, JSON or not."""
    return _with(**{field: "HERE"}).replace(b'"HERE"', text)


def _noise(chance: random.Random) -> bytes:
    return b"\xff" + chance.randbytes(chance.randrange(200))


def _cut(chance: random.Random) -> bytes:
    whole = good(chance.randrange(1000))
    return whole[: chance.randrange(1, len(whole))]


def _deep(chance: random.Random) -> bytes:
    levels = chance.randrange(2_000, 5_000)
    return _raw(chance.choice([*FEATURES, "unused"]), b"[" * levels + b"]" * levels)


_NOT_A_NUMBER: tuple[object, ...] = ("7", "NaN", "", [1], [], {}, {"value": 1})
_NOT_A_TIME: tuple[object, ...] = ("yesterday", "", "2026-13-01T00:00:00Z", -1, -1e18, 1e30, True, [], {}, "1969-12-31")
_NOT_AN_ENTITY: tuple[object, ...] = (..., None, "", 1.5, [], {}, ["m1"])
_NOT_AN_OBJECT = (b"[]", b"[1, 2]", b"7", b"-1.5e3", b'"text"', b"null", b"true", b"[{}]")
_NOT_JSON = (
    b"NaN",
    b"Infinity",
    b"-Infinity",
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"tru",
    b"'x'",
    b'"\\q"',
    b'"a\nb"',
    b"{1: 2}",
)
_NOT_UTF8 = (b'"\xff"', b'"\xc0\xaf"', b'"\xed\xa0\x80"', b'"\xe2\x82"')
_TOO_LARGE = (b"1e999", b"-1e999", b"9" * 400, b"-" + b"9" * 5000)
_KINDS: tuple[Callable[[random.Random], bytes | None], ...] = (
    lambda _: None,
    lambda _: b"",
    lambda chance: b" " * chance.randrange(1, 9),
    _noise,
    _cut,
    _deep,
    lambda chance: chance.choice(_NOT_AN_OBJECT),
    lambda chance: _with(**{chance.choice(FEATURES): chance.choice(_NOT_A_NUMBER)}),
    lambda chance: _with(ts=chance.choice(_NOT_A_TIME)),
    lambda chance: _with(machine=chance.choice(_NOT_AN_ENTITY)),
    lambda chance: _raw(chance.choice([*FEATURES, "unused"]), chance.choice(_NOT_JSON)),
    lambda chance: _raw(chance.choice([*FEATURES, "unused"]), chance.choice(_NOT_UTF8)),
    lambda chance: _raw(chance.choice(FEATURES), chance.choice(_TOO_LARGE)),
    lambda _: _raw("machine", b'"\\ud800"'),
    lambda chance: _with(**dict.fromkeys(FEATURES, chance.choice((None, ...)))),
    lambda chance: _with(machine="m" * chance.randrange(513, 2_000)),
    lambda _: good(1) + good(2),
    lambda _: b"\xef\xbb\xbf" + good(3),
)
_HUGE: tuple[Callable[[], bytes], ...] = (
    lambda: _with(a="x" * 1_000_000),
    lambda: _raw("unused", b"[" * 500_000 + b"]" * 500_000),
    lambda: _raw("unused", b'"' + b"x" * 1_000_000 + b"\xff" + b'"'),
)
