"""The rows of a call's page: every stored record once, what it says in words, what caused it, what it changed. Pure."""

from __future__ import annotations

import difflib
import json
from datetime import datetime
from typing import Any

import msgspec

from callgram import Action, Call, CallFile, Event, Kind, Op, retold, told_around
from callgram_details.causes import causes_of
from callgram_details.secrets_gone import pretty
from callgram_details.story import is_failure, names_of, short, split, whose
from callgram_details.telegram_html import plain
from callgram_details.wording import Wording, relative

WHOLE = 120  # records of a call whose rows are all whole, and events that are told again one by one; of more, what is asked for

TOLD = frozenset(kind for kind in Kind if kind in {
    "start", "dial", "bridge", "hangup", "bridge_create", "bridge_leave", "bridge_destroy", "new_callerid", "timer", "names",
    "recording",
})  # fmt: skip


class Change(msgspec.Struct, frozen=True):
    field: str
    before: str
    after: str


class Row(msgspec.Struct, kw_only=True):
    """One record. ``key`` is ``e12`` or ``a15``, by its id in the store; ``mark`` is its shape on the timeline.

    ``lane`` is a channel's unique_id of an event (``""`` for one of no channel), the chat id of an action. ``cause`` is
    the key of the event that an action answers. ``repeats`` is how often an event was posted again. Only a whole row has
    ``body``, JSON text, ``changes``, what the event changed of the call, and ``diff``, what an edit changed of the message.
    """

    key: str
    at: datetime
    is_event: bool
    lane: str
    mark: str
    what: str
    text: str
    clock: str
    since: str
    step: str
    stage: str = ""
    chat_id: int = 0
    message_id: int = 0
    cause: str = ""
    cause_after: str = ""
    body: str = ""
    changes: tuple[Change, ...] = ()
    repeats: int = 0
    answer: tuple[tuple[str, str], ...] = ()
    diff: tuple[tuple[str, str], ...] = ()
    failed: bool = False

    @property
    def times(self) -> str:
        """``×3`` where it was posted three times."""
        return f"×{self.repeats + 1}" if self.repeats else ""

    @property
    def tone(self) -> str:
        """Its classes on the page, which colour it."""
        return self.mark if self.is_event else f"{self.mark} stage-{self.stage}"

    @property
    def thin_tone(self) -> str:
        """The one class that it has on the page of a long call."""
        return self.mark if self.is_event or self.failed else f"stage-{self.stage}"


Around = dict[int, tuple[Call | None, Call]]  # {event id: the call before and after it}


def rows_of(file: CallFile, call: Call, words: Wording, plan: Any, *, asked: str = "") -> list[Row]:
    """All rows, oldest first. ``asked`` is the key of the one that must be whole; all are in a call of at most WHOLE records.
    Of more than WHOLE events the causes are told by stage only."""
    events, actions = split(file)
    known = [event for event in events if event.id not in file.failed]
    around = _around(known, plan, asked)
    history = {number: after for number, (_, after) in around.items()} if len(known) <= WHOLE else {}
    causes = causes_of(known, history, actions)
    builder = _Builder(file, call, words, asked)
    rows: list[Row] = []
    for record in file.records:
        item = record.item
        if isinstance(item, Event):
            rows.append(builder.event(item, *around.get(item.id, (None, None))))
        else:
            rows.append(builder.action(item, causes.get(item.id)))
    return rows


def _around(events: list[Event], plan: Any, asked: str) -> Around:
    if len(events) <= WHOLE:
        told = retold(events, plan)
        return {event.id: (before, after) for event, before, after in zip(events, [None, *told], told, strict=False)}
    return {
        event.id: told_around(events, place, plan) for place, event in enumerate(events) if f"e{event.id}" == asked
    }


class _Builder:
    """One page's rows: remembers the row before for the steps, and the texts of messages for the differences."""

    def __init__(self, file: CallFile, call: Call, words: Wording, asked: str) -> None:
        self._all_whole, self._asked = len(file.records) <= WHOLE, asked
        self._file, self._call, self._words = file, call, words
        self._names = names_of(file)
        self._began = file.records[0].item if file.records else None
        self._last: datetime | None = None
        self._texts: dict[tuple[int, int], str] = {}
        self._tries: dict[tuple[int, str, str], int] = {}

    def _is_whole(self, key: str) -> bool:
        return self._all_whole or key == self._asked

    def _clocks(self, at: datetime) -> dict[str, Any]:
        began = self._began
        first = at if began is None else began.received_at if isinstance(began, Event) else began.at
        last, self._last = self._last or at, at
        return {
            "clock": self._words.moment(at),
            "since": relative((at - first).total_seconds()),
            "step": relative((at - last).total_seconds()),
        }

    def event(self, event: Event, before: Call | None, after: Call | None) -> Row:
        key = f"e{event.id}"
        whole, error = self._is_whole(key), self._file.failed.get(event.id, "")
        text = self._told(event)
        if error:
            text = f"{text}; {self._words.say('row_failed', error=error)}"
        return Row(
            key=key,
            at=event.received_at,
            is_event=True,
            lane=event.unique_id,
            mark="failed" if error else str(event.kind),
            what=str(event.kind),
            text=text,
            body=pretty(event.raw) if whole else "",
            changes=tuple(self._changes(before, after)) if whole and after else (),
            repeats=self._file.repeats.get(event.id, 0),
            failed=bool(error),
            **self._clocks(event.received_at),
        )

    def _told(self, event: Event) -> str:
        words, names = self._words, self._names
        who = whose(self._file, self._call, event.unique_id, names, words)
        extensions = words.parties(event.extensions, names)
        values = {
            "phone": words.number(event.phone) or words["hidden"],
            "trunk": event.trunk or "—",
            "ext": extensions or "—",
            "num": words.number(event.caller_num) or "—",
            "name": event.caller_name,
            "bridge": short(event.bridge_id),
            "who": who,
            "status": event.status or "—",
        }
        key = f"row_{event.kind}"
        if event.kind not in TOLD:
            return str(event.kind)
        if event.kind is Kind.DIAL:
            key = "row_dial_out" if event.call_type == 1 else "row_dial_in"
        return " ".join(words.say(key, **values).split())

    def _changes(self, before: Call | None, after: Call) -> list[Change]:
        """What a reader would see differently after the event."""
        found = []
        for field in ("direction", "client", "caller", "line", "ringing", "talkers", "left_at", "answered", "ended"):
            old = self._value(field, before) if before else ""
            new = self._value(field, after)
            if old != new and not (before is None and new in {"", self._words["no"]}):
                found.append(Change(self._words[f"field_{field}"], old or "—", new or "—"))
        return found

    def _value(self, field: str, call: Call) -> str:
        value, words = getattr(call, field), self._words
        if field == "direction":
            return words[str(value)]
        if isinstance(value, bool):
            return words["yes" if value else "no"]
        if isinstance(value, tuple):
            return words.parties(value, self._names)
        if isinstance(value, datetime):
            return words.moment(value)
        return words.number(value) if value else ""

    def action(self, action: Action, cause: Event | None) -> Row:
        words = self._words
        key = f"a{action.id}"
        whole, old = self._is_whole(key), self._replaced(action)
        this_try = (action.chat_id, str(action.op), str(action.stage))
        n_try = self._tries[this_try] = self._tries.get(this_try, 0) + 1
        failure = is_failure(action)
        if not failure:
            self._tries.pop(this_try)
        retried = n_try > 1 and action.op is not Op.SKIP
        waited_s = (action.at - cause.received_at).total_seconds() if cause else 0.0
        return Row(
            key=key,
            at=action.at,
            is_event=False,
            lane=str(action.chat_id),
            mark="error" if failure else "retry" if retried else str(action.op),
            what="fail" if failure else str(action.op),
            text=self._said(action, failure=failure),
            stage=str(action.stage),
            chat_id=action.chat_id,
            message_id=action.message_id,
            cause=f"e{cause.id}" if cause else "",
            cause_after=words.say("after_cause", time=words.span(waited_s)) if cause else "",
            body=_request(action) if whole else "",
            answer=tuple(self._answer(action, n_try)),
            diff=_diff(old, action.text) if whole and action.op is Op.EDIT else (),
            failed=failure,
            **self._clocks(action.at),
        )

    def _said(self, action: Action, *, failure: bool) -> str:
        words = self._words
        stage = words[f"stage_{action.stage}"]
        if failure:
            why = ": ".join(filter(None, (action.outcome, action.reason)))
            return words.say("row_fail", op=action.op, stage=stage, reason=why)
        if action.reason.startswith("found"):
            return words.say("row_found", stage=stage)
        if action.op is not Op.SKIP:
            return words.say(f"row_{action.op}", stage=stage)
        if not action.chat_id:
            return action.reason
        kind, _, more = action.reason.partition(": ")
        key = f"skip_{kind}" if kind in {"superseded", "held", "muted", "host_times"} else "row_skip"
        return words.say(key, stage=stage, reason=more if key != "row_skip" else action.reason)

    def _answer(self, action: Action, n_try: int) -> list[tuple[str, str]]:
        words = self._words
        if action.op is Op.SKIP:
            return []
        said = [
            (words["answer"], " ".join(filter(None, (action.outcome, action.reason)))),
            ("message_id", str(action.message_id) if action.message_id else ""),
            ("", words.say("took", time=words.span(action.took_s)) if action.took_s else ""),
            ("", words.say("attempt", n=n_try) if n_try > 1 else ""),
            ("retry_after", words.span(action.retry_after_s) if action.retry_after_s else ""),
            (words["drawn_by"], action.plugin),
        ]
        return [(label, value) for label, value in said if value]

    def _replaced(self, action: Action) -> str:
        """What the message said before, ``""`` where that is not known."""
        message = (action.chat_id, action.message_id)
        old = self._texts.get(message, "")
        if action.executed and action.text and action.op in {Op.SEND, Op.EDIT}:
            self._texts[message] = action.text
        return old


def _diff(old: str, new: str) -> tuple[tuple[str, str], ...]:
    """``[("-" or "+" or " ", line)]`` of an edit against what the message said before."""
    if not old or old == new:
        return ()
    lines = difflib.ndiff(plain(old).splitlines(), plain(new).splitlines())
    return tuple((line[0], line[2:]) for line in lines if line[0] in "-+ ")


def _request(action: Action) -> str:
    """The request as it was made, as far as the store keeps it."""
    if action.op is Op.SKIP:
        return ""
    methods = {Op.SEND: "sendMessage", Op.EDIT: "editMessageText", Op.DELETE: "deleteMessage"}
    told: dict[str, object] = {"method": methods[action.op], "chat_id": action.chat_id}
    if action.op is not Op.SEND:
        told["message_id"] = action.message_id
    if action.text:
        told |= {"text": action.text, "parse_mode": "HTML"}
    return json.dumps(told, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace").decode()
