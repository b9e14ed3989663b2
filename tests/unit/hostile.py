"""The hostile texts of the tests: one table, for every place that shows what came from outside.

``sent`` is what a host, a file or a service puts into a field; ``seen`` is what a reader must find of it, at most 30 signs,
so that a place may shorten it.
"""

from __future__ import annotations

from typing import NamedTuple

import pytest


class Hostile(NamedTuple):
    sent: str
    seen: str


TABLE = {
    "tags": Hostile('<b>&"\'</b><a href="x">', '<b>&"\'</b><a href="x">'),
    "a user link": Hostile('<a href="tg://user?id=1">x</a>', '<a href="tg://user?id=1">x</a>'),
    "a script": Hostile('"><script>alert(1)</script>', '"><script>alert(1)</script>'),
    "a handler": Hostile("'><img src=x onerror=alert(1)>", "'><img src=x onerror=alert(1)>"),
    "an unclosed tag": Hostile("</blockquote></details><iframe ", "</blockquote></details><iframe"),
    "comments": Hostile("]]>--><!--<style>*{}</style>", "]]>--><!--<style>*{}</style>"),
    "entities": Hostile("&lt;i&gt;&#60;&amp;amp;", "&lt;i&gt;&#60;&amp;amp;"),
    "quotes": Hostile('O\'Neil "O" `x` «ы»', 'O\'Neil "O" `x` «ы»'),
    "a link": Hostile("javascript:alert(1)", "javascript:alert(1)"),
    "templates": Hostile("{who}{time}%s%(x)s{{7*7}}{% raw %}", "{who}{time}%s%(x)s{{7*7}}{% ra"),
    "separators": Hostile("a|b\\c|\\n\\u0085,d;e\tf", "a|b\\c|\\n\\u0085"),
    "newlines": Hostile("a\nb\r\nc\u2028d\u2029e\x0bf\x85g", "a b c d e f g"),
    "bidi marks": Hostile("\u202eevil\u202c \u2066x\u2069\u200f\u061cy\ufeff", "evil xy"),
    "control characters": Hostile("a\0b\x01c\x1b[31m\x7f\x9bd", "abc[31md"),
    "a half of a character": Hostile("A\ud83dB\udc00C", "A\ufffdB\ufffdC"),
    "marks": Hostile("e\u0301" * 500, "\u00e9" * 10),
    "flags": Hostile("\U0001f1e7\U0001f1fe" * 200, "\U0001f1e7\U0001f1fe" * 15),
    "ten thousand letters": Hostile("ы" * 10_000, "ы" * 30),
    "ten thousand digits": Hostile("9" * 10_000, "9" * 30),
    "a counter without end": Hostile("1795361900." + "9" * 5_000, "1795361900"),
}
EVERY = [pytest.param(text, id=name) for name, text in TABLE.items()]

FIELDS = (  # all that a host can set as text (docs/events.md), and one that nobody knows
    "UniqueId", "Linkedid", "MainUniqueId", "BridgeUniqueid", "BridgeNumChannels", "CallType", "Phone", "Extensions",
    "Trunk", "CallStatus", "Channel", "Exten", "CallerIDNum", "CallerIDName", "ConnectedLineNum", "ConnectedLineName",
    "ExternalInitiated", "DateReceived", "StartTime", "EndTime", "Cause", "HangupCause", "CauseTxt", "DialStatus",
    "Recording", "Url", "Context", "ExtPhone", "ExtTrunk", "BridgeName", "Event", "Nobody",
)  # fmt: skip
