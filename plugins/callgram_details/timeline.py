"""The timeline as shapes: one time axis, the channels to its left, the chats to its right. Pure; the template draws them.

Rows are evenly spaced where things happen fast and stretch, by the logarithm, where time passes, so that a talk of an hour
is seen to be long and still fits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime

import msgspec

from callgram import Call, CallFile, Direction
from callgram_details.chats import ChatLife
from callgram_details.rows import Row
from callgram_details.story import device_of, names_of, whose
from callgram_details.wording import Wording

AXIS, HEAD, MARGIN = 92, 52, 34
STEP, DENSE = 30, 16  # from one row to the next, with labels and without
WIDTH, WIDE, NARROW = 770, 104, 76  # what a desktop shows without scrolling, and the widths that a lane may have
MOST_LANES = 9  # channels with a lane of their own; a storm of legs shares the last one
SHORT = {"bridge_create": "bridge +", "bridge_destroy": "bridge −", "bridge_leave": "leave", "new_callerid": "callerid"}
LONG_GAP_S = 5.0  # time without anything that is written beside the axis


class Lane(msgspec.Struct, frozen=True):
    x: int
    label: str
    sub: str
    kind: str


class Bar(msgspec.Struct, frozen=True):
    x: int
    y: int
    height: int
    kind: str
    title: str


class Mark(msgspec.Struct, frozen=True):
    """A row on the timeline. ``glyph`` is its shape, ``tx`` and ``anchor`` place its label."""

    row: Row
    glyph: str
    x: int
    y: int
    tx: int
    anchor: str
    label: str


class Cause(msgspec.Struct, frozen=True):
    """From an event to the action that it caused: a bow, or the straight ``line`` of a drawing of very many."""

    path: str
    line: str
    event: str
    action: str


class Pause(msgspec.Struct, frozen=True):
    y: int
    text: str


class Tick(msgspec.Struct, frozen=True):
    """The clock beside the axis, where not every row has its own."""

    y: int
    text: str


class Timeline(msgspec.Struct, frozen=True):
    width: int
    height: int
    axis: int
    lanes: tuple[Lane, ...]
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]
    causes: tuple[Cause, ...]
    pauses: tuple[Pause, ...]
    ticks: tuple[Tick, ...]


def timeline_of(
    file: CallFile,
    call: Call,
    rows: Sequence[Row],
    chats: Sequence[ChatLife],
    *,
    names: dict[int, str],
    words: Wording,
    dense: bool = False,
) -> Timeline:
    """``names`` are ``{chat id: name}``. ``dense``: rows closer together, for a drawing without labels."""
    return _Drawing(file, call, rows, chats, names=names, words=words, step=DENSE if dense else STEP).drawn()


class _Drawing:
    def __init__(
        self,
        file: CallFile,
        call: Call,
        rows: Sequence[Row],
        chats: Sequence[ChatLife],
        *,
        names: dict[int, str],
        words: Wording,
        step: int,
    ) -> None:
        self._file, self._call, self._rows, self._chats = file, call, rows, chats
        self._chat_names, self._words, self._step = names, words, step
        self._channels = self._order_of_channels()
        n_lanes = min(MOST_LANES, max(1, len(self._channels)))
        room = (WIDTH - AXIS - MARGIN) // (n_lanes + max(1, len(chats)))
        self._lane = max(NARROW, min(WIDE, room))
        self._axis = MARGIN + self._lane * n_lanes + AXIS // 2
        self._y, self._pauses = self._heights()
        self._height = (max(self._y.values()) if self._y else HEAD) + step
        self._times = sorted((row.at, self._y[row.key]) for row in rows)

    def drawn(self) -> Timeline:
        lanes = [*self._channel_lanes(), *self._chat_lanes()]
        width = self._axis + AXIS // 2 + self._lane * max(1, len(self._chats)) + 8
        marks = tuple(self._mark(row) for row in self._rows)
        return Timeline(
            width=width,
            height=self._height,
            axis=self._axis,
            lanes=tuple(lanes),
            bars=(*self._channel_bars(), *self._chat_bars()),
            marks=marks,
            causes=tuple(self._causes({mark.row.key: mark for mark in marks})),
            pauses=self._pauses,
            ticks=tuple(self._ticks()),
        )

    def _order_of_channels(self) -> list[str]:
        """Client first, the call's own channel next, then as they came. ``""`` is the host itself: bridges made and gone."""
        seen = list(dict.fromkeys(row.lane for row in self._rows if row.is_event))
        clients = [uid for uid in seen if whose(self._file, self._call, uid, {}, self._words) == self._words["client"]]
        head = [self._call.unique_id] if self._call.unique_id in seen else []
        return list(dict.fromkeys([*clients, *head, *(uid for uid in seen if uid), *([""] if "" in seen else [])]))

    def _lane_of(self, channel: str) -> int:
        return min(self._channels.index(channel), MOST_LANES - 1)

    def _x_of_lane(self, lane: int) -> int:
        return MARGIN + self._lane * lane + self._lane // 2

    def _x_of_chat(self, chat_id: int) -> int:
        place = next(place for place, chat in enumerate(self._chats) if chat.chat_id == chat_id)
        return self._axis + AXIS // 2 + self._lane * place + self._lane // 2

    def _heights(self) -> tuple[dict[str, int], tuple[Pause, ...]]:
        y, heights, pauses = HEAD + self._step // 2, {}, []
        last: datetime | None = None
        for row in self._rows:
            if last is not None:
                gap_s = max(0.0, (row.at - last).total_seconds())
                stretch = self._step + round(14 * math.log2(1 + gap_s))
                if gap_s >= LONG_GAP_S:
                    pauses.append(Pause(y + stretch // 2, self._words.span(gap_s)))
                y += stretch
            heights[row.key] = y
            last = row.at
        return heights, tuple(pauses)

    def _ticks(self) -> list[Tick]:
        """The clock wherever a second began since the last, but not beside every row."""
        ticks: list[Tick] = []
        for row in self._rows:
            y, second = self._y[row.key], row.clock.partition(".")[0]
            if not ticks or (second != ticks[-1].text and y - ticks[-1].y >= 4 * DENSE):
                ticks.append(Tick(y, second))
        return ticks

    def _y_at(self, moment: datetime) -> int:
        """Where a moment between rows lies."""
        before = [place for place in self._times if place[0] <= moment]
        return before[-1][1] if before else HEAD

    def _channel_lanes(self) -> list[Lane]:
        self._channels = self._channels or [""]
        lanes, names = [], names_of(self._file)
        for place, channel in enumerate(self._channels[:MOST_LANES]):
            who = whose(self._file, self._call, channel, names, self._words) if channel else self._words["host"]
            device = device_of(self._file, channel)
            if place == MOST_LANES - 1 and len(self._channels) > MOST_LANES:
                who, device = self._words["others"], f"+{len(self._channels) - place}"
            if who == self._words["client"]:
                kind, sub = "client", self._words.number(self._call.client) or self._words["hidden"]
            else:
                kind = "leg" if channel else "host"
                leg = self._file.facts.legs.get(channel)
                number, _, name = who.partition(" ")
                if device == number:
                    who, device = number, name
                sub = self._fit("Local" if leg is not None and leg.channel.startswith("Local/") else device, 6)
            lanes.append(Lane(self._x_of_lane(place), self._fit(who), sub, kind))
        return lanes

    def _chat_lanes(self) -> list[Lane]:
        return [
            Lane(
                self._x_of_chat(chat.chat_id),
                self._fit(self._chat_names.get(chat.chat_id) or str(chat.chat_id)),
                str(chat.chat_id) if self._chat_names.get(chat.chat_id) else "",
                "chat",
            )
            for chat in self._chats
        ]

    def _fit(self, text: str, width: int = 8) -> str:
        """As much of a lane's head as fits, of letters that are about so wide."""
        limit = self._lane // width
        return text if len(text) <= limit else text[: limit - 1] + "…"

    def _channel_bars(self) -> list[Bar]:
        bars: list[Bar] = []
        for channel in self._channels:
            of_channel = [row for row in self._rows if row.is_event and row.lane == channel]
            if not channel or not of_channel:
                continue
            x = self._x_of_lane(self._lane_of(channel))
            ended = self._call.ended or of_channel[-1].what in {"hangup", "bridge_leave"}
            bottom = self._y[of_channel[-1].key] if ended else self._height - self._step // 2
            bars.append(self._bar(x, self._y[of_channel[0].key], bottom, "leg", ""))
            entered: datetime | None = None
            for move in self._file.facts.moves:
                if move.unique_id != channel:
                    continue
                if not move.left:
                    entered = entered or move.at
                elif entered is not None:
                    talk = self._words.span((move.at - entered).total_seconds())
                    bars.append(self._bar(x, self._y_at(entered), self._y_at(move.at), "talk", talk))
                    entered = None
            if entered is not None:
                bars.append(self._bar(x, self._y_at(entered), bottom, "talk", ""))
        return bars

    def _chat_bars(self) -> list[Bar]:
        bars = []
        for chat in self._chats:
            x = self._x_of_chat(chat.chat_id)
            overlap = 0
            for life in chat.lives:
                bottom = self._y_at(life.gone_at) if life.gone_at else self._height - self._step // 2
                ends = [since for _, since in life.parts[1:]]
                for (stage, since), end in zip(life.parts, [*map(self._y_at, ends), bottom], strict=True):
                    title = f"{self._words[f'stage_{stage}']} #{life.message_id}"
                    bars.append(self._bar(x + overlap, self._y_at(since), end, f"stage-{stage}", title))
                overlap = 7 - overlap
        return bars

    def _bar(self, x: int, top: int, bottom: int, kind: str, title: str) -> Bar:
        return Bar(x, top, max(4, bottom - top), kind, title)

    def _mark(self, row: Row) -> Mark:
        y = self._y[row.key]
        if row.is_event:
            x = self._x_of_lane(self._lane_of(row.lane))
            label = f"{SHORT.get(row.what, row.what)} {row.times}".strip()
            return Mark(row, _glyph(row), x, y, x - 11, "end", label)
        if not row.chat_id:  # a decision about the call as a whole
            x = self._axis + AXIS // 2
            return Mark(row, _glyph(row), x, y, x + 11, "start", row.what)
        x = self._x_of_chat(row.chat_id)
        return Mark(row, _glyph(row), x, y, x + 18, "start", row.what)

    def _causes(self, marks: dict[str, Mark]) -> list[Cause]:
        found = []
        for mark in marks.values():
            cause = marks.get(mark.row.cause)
            if cause is None:
                continue
            bend = self._axis + AXIS // 4
            path = f"M{cause.x} {cause.y}C{bend} {cause.y} {bend - AXIS // 2} {mark.y} {mark.x} {mark.y}"
            line = f"M{cause.x} {cause.y}L{mark.x} {mark.y}"
            found.append(Cause(path, line, cause.row.key, mark.row.key))
        return found


def _glyph(row: Row) -> str:
    if row.is_event:
        return "dot" if row.mark in {"start", "dial", "bridge", "hangup", "failed"} else "small"
    return row.mark if row.mark in {"send", "retry", "edit", "delete", "skip"} else "error"


def direction_sign(call: Call) -> str:
    return {Direction.INCOMING: "↓", Direction.OUTGOING: "↑", Direction.INTERNAL: "↔"}[call.direction]
