"""What an Asterisk host posts, as values: the tolerant wire format and the :class:`Event` that the rest of callgram reads.

Reads request bodies; refuses only what cannot be a call event at all (not an object, an unreadable field).
The contract is in docs/events.md. Nothing past :func:`read_event` handles raw dicts.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import msgspec

from callgram.errors import IngestError

MAX_FIELD = 10_000  # code points kept of one field; the raw body is stored whole
UNKNOWN = frozenset({"", "<unknown>", "unknown"})


class Kind(StrEnum):
    """The path that an event was posted to."""

    START = "start"
    DIAL = "dial"
    BRIDGE = "bridge"
    HANGUP = "hangup"
    BRIDGE_CREATE = "bridge_create"
    BRIDGE_LEAVE = "bridge_leave"
    BRIDGE_DESTROY = "bridge_destroy"
    NEW_CALLERID = "new_callerid"
    RECORDING = "recording"
    TIMER = "timer"  # ours: a call's own clock ran out (ghost rule, a leg that ended alone); never posted
    NAMES = "names"  # ours: what the plugins found out about a call (enrich_call); never posted


OURS = frozenset({Kind.TIMER, Kind.NAMES})
POSTED = tuple(kind for kind in Kind if kind not in OURS)


class History(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Earlier calls with the same client, as far as the store keeps them: how many, when the last began (aware UTC),
    and whether somebody answered it."""

    n_calls: int
    last_at: datetime
    last_answered: bool


class Enrichment(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What plugins found out about a call. ``names`` is ``{number: name}``: a client in canonical form, an extension, a
    line; ``recording`` is a link that people may follow."""

    names: dict[str, str] = {}
    history: History | None = None
    recording: str = ""


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that a host said about a call.

    ``received_at`` is aware UTC and the only clock that is trusted; ``start_time`` and ``end_time`` are the host's
    local time as it wrote it, without a zone. Empty string means "not told"; ``<unknown>`` is read as not told.
    ``n_channels`` is how many channels the bridge then has. ``call_type`` is 0 incoming, 1 outgoing, 2 internal, ``None``
    not told, and it lies (docs/events.md).
    """

    id: int = 0
    enterprise: str
    kind: Kind
    received_at: datetime
    unique_id: str = ""
    linked_id: str = ""
    main_id: str = ""
    bridge_id: str = ""
    n_channels: int | None = None
    call_type: int | None = None
    phone: str = ""
    extensions: tuple[str, ...] = ()
    trunk: str = ""
    status: str = ""
    channel: str = ""
    exten: str = ""
    caller_num: str = ""
    caller_name: str = ""
    connected_num: str = ""
    connected_name: str = ""
    external: bool = False
    start_time: str = ""
    end_time: str = ""
    cause: str = ""
    cause_text: str = ""
    dial_status: str = ""
    recording: str = ""
    found: Enrichment | None = None
    raw: bytes = b"{}"

    @property
    def posted(self) -> bool:
        """Whether a host said it, and not callgram itself."""
        return self.kind not in OURS


Scalar = str | int | float | bool | None


class _Wire(msgspec.Struct, rename="pascal"):
    """The body as hosts spell it. Every scalar may come as string, number or null; unknown fields are left in ``raw``."""

    token: Scalar = None
    unique_id: Scalar = None
    linkedid: Scalar = None
    main_unique_id: Scalar = None
    bridge_uniqueid: Scalar = None
    bridge_num_channels: Scalar = None
    call_type: Scalar = None
    phone: Scalar = None
    extensions: list[Scalar] | Scalar = None
    trunk: Scalar = None
    call_status: Scalar = None
    channel: Scalar = None
    exten: Scalar = None
    caller_id_num: Scalar = msgspec.field(name="CallerIDNum", default=None)
    caller_id_name: Scalar = msgspec.field(name="CallerIDName", default=None)
    connected_line_num: Scalar = None
    connected_line_name: Scalar = None
    external_initiated: Scalar = None
    start_time: Scalar = None
    end_time: Scalar = None
    cause: Scalar = None
    hangup_cause: Scalar = None
    cause_txt: Scalar = None
    dial_status: Scalar = None
    recording: Scalar = None
    url: Scalar = None


_decode_found = msgspec.json.Decoder(Enrichment).decode
_decode = msgspec.json.Decoder(_Wire).decode
_decode_any = msgspec.json.Decoder().decode
_LONE_SURROGATE = re.compile(r"(?<!\\)((?:\\\\)*)\\u[dD][89a-fA-F][0-9a-fA-F]{2}")
_TOO_DEEP = "the body is nested too deeply; send one flat JSON object"
_FIELD = re.compile(r"`\$\.?([^`]*)`")


def read_wire(body: bytes) -> _Wire:
    """Decode a request body.

    Raises:
        IngestError: 400 when it is not JSON, 422 when it is not an object or a field cannot be read (the field is named).

    Bytes that are not UTF-8 and lone surrogates come from caller names; they are read as U+FFFD instead of losing the call.
    """
    try:
        return _decode(body)
    except RecursionError:
        raise IngestError(422, _TOO_DEEP) from None
    except (msgspec.DecodeError, UnicodeDecodeError):
        pass
    repaired = _LONE_SURROGATE.sub(r"\1\\ufffd", body.decode("utf-8", "replace")).encode()
    try:
        return _decode(repaired)
    except msgspec.ValidationError as error:
        raise _unreadable(repaired, error) from None
    except msgspec.DecodeError as error:
        raise IngestError(400, f"the body is not JSON: {error}; send one JSON object") from None


def _unreadable(body: bytes, error: msgspec.ValidationError) -> IngestError:
    try:
        whole = _decode_any(body)
    except RecursionError:
        return IngestError(422, _TOO_DEEP)
    except msgspec.ValidationError:  # a number that no field can hold, in an object
        whole = {}
    except msgspec.DecodeError as broken:  # a wrong type before the place where it stops being JSON
        return IngestError(400, f"the body is not JSON: {broken}; send one JSON object")
    if not isinstance(whole, dict):
        return IngestError(422, 'the body must be a JSON object such as {"Token": "…", "UniqueId": "…"}')
    found = _FIELD.search(str(error))
    name = found.group(1) if found else "?"
    wanted = "text, a number or a list of them" if name == "Extensions" else "text or a number"
    return IngestError(422, f"field {name}: {str(error).split(' - at')[0]}; send {wanted}", field=name)


def text_of(value: Any) -> str:
    """A scalar of the wire as text: null, ``<unknown>`` and the like are ''. NUL cannot be stored and is dropped."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    text = str(value).replace("\0", "").strip()[:MAX_FIELD]
    return "" if text.lower() in UNKNOWN else text


def name_of(value: Any) -> str:
    """A name of the wire. Asterisk escapes quotes and backslashes in it, PJSIP twice; people read neither."""
    text = text_of(value)
    return re.sub(r"\\+([\"'])", r"\1", text).replace("\\\\", "\\") if "\\" in text else text


def _flag(value: Any) -> bool:
    return text_of(value).lower() in {"true", "1", "yes"}


def _call_type(value: Any) -> int | None:
    text = text_of(value)
    return int(text) if text in {"0", "1", "2"} else None


def _count(value: Any) -> int | None:
    text = text_of(value)
    return int(text) if re.fullmatch(r"[0-9]{1,4}", text) else None


def _extensions(value: Any) -> tuple[str, ...]:
    """Who rings. Some dialplans send all of them as one item, ``"150,151"`` or ``"150&151"`` (captures/asterisk22-pjsip)."""
    items = value if isinstance(value, list) else [value]
    parts = (part for item in items for part in re.split(r"[,&]", text_of(item)))
    return tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))


def read_event(kind: Kind, body: bytes, *, enterprise: str, received_at: datetime, event_id: int = 0) -> Event:
    """Make an :class:`Event` of a request body; raises as :func:`read_wire` does."""
    return to_event(read_wire(body), kind, body, enterprise=enterprise, received_at=received_at, event_id=event_id)


def to_event(
    wire: _Wire, kind: Kind, body: bytes, *, enterprise: str, received_at: datetime, event_id: int = 0
) -> Event:
    return Event(
        id=event_id,
        enterprise=enterprise,
        kind=kind,
        received_at=received_at.astimezone(UTC),
        unique_id=text_of(wire.unique_id),
        linked_id=text_of(wire.linkedid),
        main_id=text_of(wire.main_unique_id),
        bridge_id=text_of(wire.bridge_uniqueid),
        n_channels=_count(wire.bridge_num_channels),
        call_type=_call_type(wire.call_type),
        phone=text_of(wire.phone),
        extensions=_extensions(wire.extensions),
        trunk=text_of(wire.trunk),
        status=text_of(wire.call_status),
        channel=text_of(wire.channel),
        exten=text_of(wire.exten),
        caller_num=text_of(wire.caller_id_num),
        caller_name=name_of(wire.caller_id_name),
        connected_num=text_of(wire.connected_line_num),
        connected_name=name_of(wire.connected_line_name),
        external=_flag(wire.external_initiated),
        start_time=text_of(wire.start_time),
        end_time=text_of(wire.end_time),
        cause=text_of(wire.cause) or text_of(wire.hangup_cause),
        cause_text=text_of(wire.cause_txt),
        dial_status=text_of(wire.dial_status).upper(),
        recording=text_of(wire.url) or text_of(wire.recording),
        found=_decode_found(body) if kind is Kind.NAMES else None,
        raw=body,
    )


def token_of(wire: _Wire) -> str:
    """The enterprise's Token as the body carries it, '' when it carries none."""
    return text_of(wire.token)
