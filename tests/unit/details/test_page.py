"""The call page without a server: words of results, gaps, every row once, what may not be seen, and hostile text."""

from __future__ import annotations

import re
from datetime import timedelta
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import pytest

from callgram import Action, Enterprise, Event, Kind, Op, Record, Secret, Stage
from callgram.calls.book import Book
from callgram.calls.story import tell
from callgram.cards import Card, Shown
from callgram.context import Chat, Directory, Locale
from callgram.reading import CallFile, Listed
from callgram.testing import lab
from callgram_details import Details, page
from callgram_details.access import Reader
from callgram_details.accounts import Operator
from callgram_details.briefs import brief_of
from callgram_details.chats import chats_of
from callgram_details.exports import log_of, mermaid_of
from callgram_details.lists import Asked
from callgram_details.rows import WHOLE, rows_of
from callgram_details.secrets_gone import NumberMask, pretty
from callgram_details.story import badges_of, gaps_of, names_of, result_words, split
from callgram_details.telegram_html import plain, safe_html
from callgram_details.timeline import timeline_of
from callgram_details.wording import Wording, relative
from callgram_tracer import parse_line

SCENARIOS = Path(__file__).parents[2] / "data" / "scenarios"
LOCALE = Locale()
RU, EN = Wording("ru", LOCALE.tz), Wording("en", LOCALE.tz)
TOKEN = "375290000001"
OFFICE = Enterprise(number="0367", name="Office", token=Secret(TOKEN), bot_token=Secret("42:SECRET-bot-token"))
DIRECTORY = Directory(enterprises={"0367": OFFICE}, chats={"0367": (Chat(id=41, name="Марина"), Chat(id=-7))})
HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "\"'><svg/onload=alert(1)>",
    "</pre></details><iframe src=//evil>",
    "javascript:alert(1)",
    "{{7*7}}{% raw %}",
    "<!--<b>",
    "]]><style>*{}</style>",
    "\ud83d broken & &amp; &lt;b&gt;",
    "a\u202egnp.exe\u0000\x1b[31m",
]


def file_of(*events: Any, actions: bool = True) -> CallFile:
    """The file of the one call that ``events`` tell, with a life of messages in two chats where ``actions``."""
    told = lab(Details).events(*events)
    book = Book(LOCALE.plan)
    for event in told:
        book.apply(event)
    (facts,) = book.calls.values()
    items: list[Event | Action] = [*told]
    call = tell(facts, LOCALE.plan)
    if actions:
        items += life_of(told, call.ended)
    items.sort(key=lambda item: item.received_at if isinstance(item, Event) else item.at)
    shown = (Shown(message_id=99, stage=Stage.HANGUP, digest="", sent_at=facts.last_at),)
    cards = [
        Card(enterprise="0367", call_id=facts.id, chat_id=chat, bot_id=42, stage=Stage.HANGUP, shown=shown)
        for chat in (41, -7)
    ]
    return CallFile(
        facts=facts,
        records=tuple(Record(cursor=str(number), item=item) for number, item in enumerate(items)),
        cards=tuple(cards) if actions else (),
        channels=tuple(dict.fromkeys(event.unique_id for event in told if event.unique_id)),
    )


def life_of(told: list[Event], ended: bool) -> list[Action]:
    actions: list[Action] = []

    def act(op: Op, after: Event, **more: Any) -> None:
        for chat in (41, -7):
            given: dict[str, Any] = {"stage": Stage.DIAL, "message_id": 11, **more}
            at = after.received_at + timedelta(milliseconds=9 + len(actions))
            base = {
                "at": at,
                "enterprise": "0367",
                "call_id": told[0].id,
                "unique_id": "u",
                "bot_id": 42,
                "took_s": 0.05,
            }
            actions.append(Action(op=op, chat_id=chat, id=1000 + len(actions), **base, **given))

    act(Op.SKIP, told[0], stage=Stage.START, message_id=0, outcome="skipped", reason="superseded")
    act(Op.SEND, told[0], outcome="flood", reason="flood: Too Many Requests: retry after 3", message_id=0)
    act(Op.SEND, told[0], text="Звонит\n<b>150</b>")
    act(Op.EDIT, told[-1], text="Звонит\n<b>151</b>")
    if ended:
        act(Op.SEND, told[-1], stage=Stage.HANGUP, message_id=12, text="✅ Успешный")
        act(Op.DELETE, told[-1])
    return actions


def view_of(words: Wording, *, masked: bool = False, link: str = "sig") -> page.View:
    reader = Reader(enterprises=("0367",), masked=masked, operator=Operator(login="anna", password_hash=""))
    return page.View(reader=reader, words=words, locale=LOCALE, directory=DIRECTORY, query=(("s", link),))


def drawn(file: CallFile, *, masked: bool = False, words: Wording = RU, link: str = "sig", number: int = 0) -> str:
    view = view_of(words, masked=masked, link=link)
    return page.call_page(view, file, file.channels[0] if file.channels else "x", (), page=number, lives=False)


def the_list(file: CallFile, view: page.View, text: str) -> dict[str, Any]:
    """What the list of calls is drawn of, with ``text`` in every field of its filter."""
    brief = brief_of(Listed(facts=file.facts, n_chats=1, n_shown=0), view.words, LOCALE.plan)
    asked = Asked(**dict.fromkeys(Asked.__struct_fields__, text))
    calls = {"calls": [brief], "live": [brief], "urls": ["/x"], "live_urls": ["/x"], "csrf": text, "searched": text}
    more = {"next": "/calls", "csv": "/calls.csv", "languages": [("ru", "/calls")]}
    return {**calls, **more, "asked": asked, "enterprises": [text]}


def listed(html: str) -> list[str]:
    """The keys of the rows in the list."""
    return re.findall(r'<li id="?(\w+)"? class', html)


def marked(html: str) -> list[str]:
    """The keys of the marks on the timeline."""
    return re.findall(r'<(?:a href="#|use id=m-)(\w+)"? class="?(?!stamp)', html)


class Shape(HTMLParser):
    """The tags of a page, and each attribute that could run something or reach outside."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.bad: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            away = name in {"href", "src", "action"} and not re.match(r"(/|#|\?|$)", value or "")
            if name.startswith("on") or name == "style" or away:
                self.bad.append(f"{tag} {name}={value}")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("incoming-answered", "Принят 151, 31 с"),
        ("incoming-attended-transfer", r"Принят 151 → 152, .*"),
        ("incoming-missed", "Пропущен: никто из 2 не ответил"),
        ("incoming-hidden-number", "Пропущен: 150 не ответил"),
        ("incoming-greeting-abandoned", "Пропущен: положил трубку, пока никому не звонило"),
        ("outgoing-answered", r"151 дозвонился, .*"),
        ("outgoing-unanswered", "151 не дозвонился"),
        ("internal-answered", r"Поговорили \d+ ↔ \d+, .*"),
    ],
)
def test_the_result_of_a_call_is_said_in_words(name: str, said: str) -> None:
    file = file_of(SCENARIOS / f"{name}.json")
    call = tell(file.facts, LOCALE.plan)
    assert re.fullmatch(said, result_words(call, names_of(file), RU))
    assert result_words(call, names_of(file), EN)


def test_a_live_call_says_who_rings_and_who_talks() -> None:
    ring = ("dial", {"UniqueId": "1.1", "CallType": 0, "Phone": "375296254070", "Extensions": ["150", "151"]})
    file = file_of(ring)
    assert result_words(tell(file.facts, LOCALE.plan), {}, RU) == "Звонит: 150, 151"
    talk = (
        "bridge",
        {"UniqueId": "1.2", "Channel": "SIP/150-1", "BridgeUniqueid": "b", "ConnectedLineNum": "375296254070"},
    )
    client = ("bridge", {"UniqueId": "1.1", "Channel": "SIP/0001363-1", "BridgeUniqueid": "b"})
    live = file_of(ring, talk, client)
    assert result_words(tell(live.facts, LOCALE.plan), {"150": "Иванов"}, RU) == "Разговаривает 150 Иванов"


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in sorted(SCENARIOS.glob("*.json"))])
def test_every_record_is_once_in_the_list_and_once_on_the_timeline(path: Path) -> None:
    file = file_of(path)
    keys = [f"e{record.item.id}" if isinstance(record.item, Event) else f"a{record.item.id}" for record in file.records]
    html = drawn(file)
    assert listed(html) == marked(html) == keys
    assert Shape(html).bad == []
    assert len(html.encode()) < 150_000


@pytest.mark.parametrize("path", [pytest.param(path, id=path.stem) for path in sorted(SCENARIOS.glob("*.json"))])
def test_every_action_has_a_cause_before_it_and_lies_below_it(path: Path) -> None:
    file = file_of(path)
    call = tell(file.facts, LOCALE.plan)
    rows = rows_of(file, call, RU, LOCALE.plan)
    at = {row.key: row.at for row in rows}
    assert all(row.cause and at[row.cause] <= row.at for row in rows if not row.is_event)
    line = timeline_of(file, call, rows, chats_of(split(file)[1]), names={}, words=RU)
    ys = [mark.y for mark in line.marks]
    assert ys == sorted(set(ys))
    assert all(0 <= mark.x <= line.width and mark.y <= line.height for mark in line.marks)


def test_a_lane_is_headed_by_the_extension_above_its_name() -> None:
    named = {**BRIDGE, "CallerIDNum": "150", "CallerIDName": "Иванов"}
    file = file_of(("start", START), ("bridge", named), ("hangup", END), actions=False)
    call = tell(file.facts, LOCALE.plan)
    rows = rows_of(file, call, RU, LOCALE.plan)
    lanes = timeline_of(file, call, rows, (), names={}, words=RU).lanes
    assert [(lane.label, lane.sub) for lane in lanes] == [("Клиент", "+375 (29) 625-40-70"), ("150", "Иванов")]


def test_retries_failures_and_skips_have_marks_of_their_own() -> None:
    file = file_of(SCENARIOS / "incoming-answered.json")
    marks = [row.mark for row in rows_of(file, tell(file.facts, LOCALE.plan), RU, LOCALE.plan) if not row.is_event]
    assert {"skip", "error", "retry", "edit", "delete", "send"} == set(marks)


def test_the_time_machine_shows_what_the_chat_showed() -> None:
    _, actions = split(file_of(SCENARIOS / "incoming-answered.json"))
    chat = chats_of(actions)[0]
    texts = [[bubble.html for bubble in moment.bubbles] for moment in chat.moments]
    assert texts == [
        ["Звонит\n<b>150</b>"],
        ["Звонит\n<b>151</b>"],
        ["Звонит\n<b>151</b>", "✅ Успешный"],
        ["✅ Успешный"],
    ]
    (gone, kept) = chat.lives
    assert (gone.message_id, gone.gone_at is not None, kept.gone_at) == (11, True, None)


BRIDGE = {"Channel": "SIP/150-1", "BridgeUniqueid": "b1", "Linkedid": "1.1", "UniqueId": "1.2"}
END = {"UniqueId": "1.1", "CallType": 0, "Phone": "375296254070", "CallStatus": "2", "Extensions": ["150"]}
START = {"UniqueId": "1.1", "CallType": 0, "Phone": "375296254070", "Trunk": "0001363"}


@pytest.mark.parametrize(
    ("events", "said"),
    [
        pytest.param([("start", START), ("bridge", BRIDGE), ("hangup", END)], "BRIDGE without DIAL", id="no dial"),
        pytest.param([("hangup", END)], "HANGUP alone", id="only the end"),
        pytest.param(
            [("dial", {**START, "Extensions": ["150"]}), ("hangup", END)], "DIAL without START", id="no start"
        ),
        pytest.param(
            [("start", START), ("bridge", BRIDGE), ("hangup", END)], "entered by one channel only", id="one in"
        ),
        pytest.param([("start", START), ("bridge_leave", BRIDGE), ("hangup", END)], "never entered", id="left, not in"),
    ],
)
def test_what_is_missing_is_named(events: list[Any], said: str) -> None:
    file = file_of(*events)
    gaps = gaps_of(file, tell(file.facts, LOCALE.plan), EN)
    assert [gap for gap in gaps if said in gap]


def test_a_whole_call_misses_nothing() -> None:
    file = file_of(SCENARIOS / "incoming-answered.json")
    call = tell(file.facts, LOCALE.plan)
    assert gaps_of(file, call, EN) == []
    assert {badge.kind for badge in badges_of(file, call, EN, [])} <= {"failed", "late"}


def test_an_ended_call_without_messages_is_badged_and_its_chats_are_named() -> None:
    file = file_of(("start", START), ("hangup", {**END, "CallStatus": "0"}), actions=False)
    cards = (Card(enterprise="0367", call_id=1, chat_id=41, bot_id=42, stage=Stage.HANGUP),)
    file = CallFile(facts=file.facts, records=file.records, cards=cards, channels=file.channels)
    call = tell(file.facts, LOCALE.plan)
    assert "unsent" in {badge.kind for badge in badges_of(file, call, EN, [])}
    assert "Chat 41: nothing shown" in gaps_of(file, call, EN)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("superseded", "START not needed: superseded by a later one"),
        ("host_times: not used, StartTime is off", "The host's times: not used, StartTime is off"),
        ("filtered: no plugin draws it", "START not shown: filtered: no plugin draws it"),
        ("blocked: bot was blocked by the user", "START not shown: blocked: bot was blocked by the user"),
    ],
)
def test_why_a_stage_is_not_in_the_chat_is_said_as_what_it_is(reason: str, said: str) -> None:
    file = file_of(("start", START))
    records = tuple(
        Record(cursor=record.cursor, item=msgspec.structs.replace(record.item, reason=reason))
        if isinstance(record.item, Action) and record.item.op is Op.SKIP
        else record
        for record in file.records
    )
    file = msgspec.structs.replace(file, records=records)
    rows = rows_of(file, tell(file.facts, LOCALE.plan), EN, LOCALE.plan)
    assert {row.text for row in rows if row.what == "skip"} == {said}


def test_a_gap_that_is_there_time_and_again_is_told_once() -> None:
    leaves = [("bridge_leave", {**BRIDGE, "BridgeUniqueid": f"b{n}"}) for n in range(5)]
    file = file_of(("start", START), *leaves)
    gaps = gaps_of(file, tell(file.facts, LOCALE.plan), EN)
    assert len(gaps) == len(set(gaps)) == 1


# What may not be seen


def test_no_secret_is_on_a_page_whatever_field_it_hides_in() -> None:
    deep = {"deep": [{"Password": "SECRET-deep"}], "Url": "https://me:SECRET-pw@pbx.example/1.mp3"}
    body = {
        **START,
        **deep,
        "Token": TOKEN,
        "token": TOKEN,
        "CallerIDName": f"{TOKEN} 42:SECRET-bot-token",
        "Trunk": TOKEN,
    }
    file = file_of(("start", body), ("hangup", END))
    call = tell(file.facts, LOCALE.plan)
    exports = log_of(file, RU) + mermaid_of(file, call, rows_of(file, call, RU, LOCALE.plan), {}, RU)
    for text in (drawn(file), page.cleaned(exports, OFFICE, Reader(enterprises=None), ())):
        assert TOKEN not in text
        assert "SECRET" not in text


def test_a_masked_reader_sees_no_number_in_any_form() -> None:
    body = {**START, "Phone": "+375 (29) 625-40-70", "CallerIDName": "80296254070", "ConnectedLineNum": "375296254070"}
    html = drawn(file_of(("start", body), ("dial", {**START, "Extensions": ["150"]}), ("hangup", END)), masked=True)
    for digits in ("6254070", "625-40-70", "625 40 70"):
        assert digits not in html
    assert "+375 (29) •••-••-70" in html
    assert "1.1" in html


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("+375 (29) 625-40-70", "+375 (29) •••-••-70"),
        ('"Phone": "375296254070"', '"Phone": "37529•••••70"'),
        ("151 and 12:05:23", "151 and 12:05:23"),
    ],
)
def test_the_mask_knows_every_form_of_a_number(text: str, shown: str) -> None:
    assert NumberMask(["375296254070", "151"])(text) == shown


@pytest.mark.parametrize("raw", [b"", b"[1]", b"\xff{", b'{"Token": "secret-1"', b"null"])
def test_a_body_that_is_no_object_is_shown_as_it_is(raw: bytes) -> None:
    assert isinstance(pretty(raw), str)


# Hostile text


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("words", [RU, EN])
def test_hostile_text_stays_text_on_every_page(text: str, words: Wording, monkeypatch: pytest.MonkeyPatch) -> None:
    body = {**START, "CallerIDName": text, "Phone": text, "Trunk": text, text: text, "Channel": f"SIP/{text}-1"}
    file = file_of(("start", body), ("bridge", {**BRIDGE, **body}), ("hangup", {**END, "Extensions": [text]}))
    records = []
    for record in file.records:
        item = record.item
        if isinstance(item, Action):
            item = Action(
                **{
                    **{name: getattr(item, name) for name in Action.__struct_fields__},
                    "text": text,
                    "reason": text,
                    "outcome": text if item.op is Op.SKIP else item.outcome,
                }
            )
        records.append(Record(cursor=record.cursor, item=item))
    file = CallFile(facts=file.facts, records=tuple(records), cards=file.cards, channels=(text, "1.1"))
    view = view_of(words)
    whole = drawn(file, words=words)
    monkeypatch.setattr(page, "WHOLE", 0)
    thin = drawn(file, words=words)
    records = tuple(page.record_page(view, file, "1.1", key) for key in listed(thin))
    listing = page.list_page(view, **the_list(file, view, text))
    for html in (whole, thin, page.rest_page(view, file, text), listing, *records):
        shape = Shape(html)
        assert shape.bad == []
        assert shape.tags.count("script") == 1
        assert not {"img", "iframe", "style", "object", "embed", "base"} & set(shape.tags)
        assert "49{%" not in html


@pytest.mark.parametrize(
    ("markup", "shown"),
    [
        ("<b>1</b> <i>2</i>", "<b>1</b> <i>2</i>"),
        ("<b>not closed", "<b>not closed</b>"),
        ("<blockquote expandable>x</blockquote>", "<blockquote>x</blockquote>"),
        ('<a href="https://a.example/?x=1&y=2">a</a>', 'href="https://a.example/?x=1&amp;y=2"'),
        ('<a href="javascript:alert(1)">a</a>', "&lt;a href="),
        ("<b onclick=alert(1)>x</b>", "<b>x</b>"),
        ("</b></div>", ""),
        ("1 < 2 & 3 &lt; 4", "1 &lt; 2 &amp; 3 &lt; 4"),
    ],
)
def test_telegram_html_comes_through_and_nothing_else(markup: str, shown: str) -> None:
    assert shown in safe_html(markup)
    assert "onclick" not in safe_html(markup)
    assert "javascript" not in re.sub(r"&lt;.*?&gt;", "", safe_html(markup))


def test_plain_text_has_no_markup() -> None:
    assert plain("<b>150</b> &lt;Иванов&gt;") == "150 <Иванов>"


# Exports


def test_the_log_of_a_call_is_lines_that_a_trace_file_has() -> None:
    file = file_of(SCENARIOS / "incoming-answered.json")
    lines = [parse_line(line) for line in log_of(file, RU).splitlines(keepends=True)]
    assert [line.source for line in lines].count("AST") == 10
    assert len(lines) == len(file.records)


def test_what_no_host_posted_is_in_no_log() -> None:
    """callgram replay posts every event of it again, and there is nobody who takes these."""
    file = file_of(("start", START), ("hangup", END), actions=False)
    (one, *_), _ = split(file)
    ours = [msgspec.structs.replace(one, id=90 + n, kind=kind) for n, kind in enumerate((Kind.TIMER, Kind.NAMES))]
    records = (*file.records, *(Record(cursor="9", item=event) for event in ours))
    text = log_of(msgspec.structs.replace(file, records=records), RU)
    assert [parse_line(line).what for line in text.splitlines(keepends=True)] == ["start", "hangup"]


def test_a_mermaid_diagram_has_a_line_for_every_record_and_no_sign_of_its_own() -> None:
    body = {**START, "CallerIDName": 'x"; participant <b>#35;'}
    file = file_of(("start", body), ("dial", {**START, "Extensions": ["150"]}), ("hangup", END))
    call = tell(file.facts, LOCALE.plan)
    text = mermaid_of(file, call, rows_of(file, call, RU, LOCALE.plan), {41: 'a"b\n'}, RU)
    assert text.startswith("sequenceDiagram\n")
    assert len(re.findall("->>|--x", text)) == len(file.records)
    assert not re.search(r'["<;#]', text)


SPANS = [(0, "0 с"), (0.008, "8 мс"), (1.44, "1,4 с"), (134, "2 мин 14 с"), (3723, "1 ч 2 мин 3 с")]


@pytest.mark.parametrize(("seconds", "said"), SPANS)
def test_spans_are_said_in_words(seconds: float, said: str) -> None:
    assert RU.span(seconds) == said


def test_the_relative_clock() -> None:
    assert [relative(value) for value in (0, 0.4131, 62.04, 3723)] == ["+0.000", "+0.413", "+1:02.0", "+1:02:03.0"]


# Long calls

NAME = "Константин Константинопольский"
TEXT = "📞Входящий звонок\n💰<b>+375 (29) 625-40-70</b>\n☎️" + NAME + "\n" + "строка сообщения\n" * 12


def storm(n_records: int, of: str) -> CallFile:
    """A call of so many records, most of them of one kind."""
    kinds: dict[str, Any] = {
        "legs": lambda n: ("bridge", {**BRIDGE, "UniqueId": f"1757840000.{n}", "Channel": f"PJSIP/{n:03}-0000{n:04x}"}),
        "moves": lambda n: ("bridge" if n % 2 else "bridge_leave", {**BRIDGE, "UniqueId": f"1757840000.{n % 9}"}),
        "rings": lambda n: (
            "dial",
            {**START, "UniqueId": "1.1", "Extensions": [f"{150 + (n + i) % 40}" for i in range(20)]},
        ),
        "names": lambda n: ("new_callerid", {**BRIDGE, "CallerIDNum": "375296254070", "CallerIDName": NAME * 3}),
    }
    n_events = n_records if of in kinds else n_records // 5
    more = kinds.get(of, kinds["moves"])
    told = lab(Details).events(("start", START), *(more(n) for n in range(n_events - 1)))
    book = Book(LOCALE.plan)
    for event in told:
        book.apply(event)
    actions = [
        Action(
            at=told[n % n_events].received_at + timedelta(milliseconds=n), enterprise="0367", call_id=told[0].id, unique_id="1.1",
            chat_id=(41, -7)[n % 2], bot_id=42, took_s=0.2, id=900_000 + n,
            stage=(Stage.DIAL, Stage.BRIDGE)[n // 2 % 2],
            op={"sends": (Op.SEND, Op.DELETE)[n // 2 % 2], "edits": Op.EDIT, "skips": Op.SKIP, "failures": Op.SEND}[of],
            message_id=0 if of in {"skips", "failures"} else 77_000 + n // 4 * (of == "sends"),
            text=TEXT if of != "skips" else "", outcome={"skips": "skipped", "failures": "flood"}.get(of, "ok"),
            reason={"skips": "superseded", "failures": "Too Many Requests: retry after 3 " * 9}.get(of, ""),
        )
        for n in range(n_records - n_events)
    ]  # fmt: skip
    items = sorted([*told, *actions], key=lambda item: item.received_at if isinstance(item, Event) else item.at)
    records = tuple(Record(cursor=str(number), item=item) for number, item in enumerate(items))
    return CallFile(facts=next(iter(book.calls.values())), records=records, cards=(), channels=("1.1",))


@pytest.mark.parametrize("words", [pytest.param(RU, id="ru"), pytest.param(EN, id="en")])
@pytest.mark.parametrize("of", ["legs", "moves", "rings", "names", "sends", "edits", "skips", "failures"])
def test_a_page_of_500_records_has_150_kB_and_each_of_them_once(of: str, words: Wording) -> None:
    html = drawn(storm(500, of), words=words, link="s" * 120)
    assert len(html.encode()) <= 150_000
    assert len(set(listed(html))) == len(listed(html)) == 500
    assert marked(html) == listed(html)
    assert Shape(html).bad == []


def test_a_call_of_more_than_2000_records_is_paged_and_its_pages_are_the_whole() -> None:
    file = storm(4_500, "moves")
    pages = [drawn(file, number=number) for number in range(3)]
    assert [len(listed(html)) for html in pages] == [2_000, 2_000, 500]
    assert len({key for html in pages for key in listed(html)}) == 4_500
    assert ["p=1" in pages[0], "p=2" in pages[1], "p=0" in pages[1], "p=1" in pages[2]] == [True] * 4


def test_what_any_event_of_a_long_call_changed_is_told_when_it_is_asked_for() -> None:
    told = {"UniqueId": "1.1", "CallType": 0, "Phone": "375296254070", "Trunk": "0001363"}
    channels = [{**BRIDGE, "UniqueId": f"2.{n}", "Channel": f"SIP/{150 + n % 9}-{n}"} for n in range(WHOLE)]
    client = {**BRIDGE, "UniqueId": "1.1", "Channel": "SIP/0001363-1"}
    file = file_of(("start", told), ("bridge", client), *(("bridge", one) for one in channels), ("hangup", END))
    events, _ = split(file)
    assert len(events) > WHOLE
    pages = [page.record_page(view_of(EN), file, "1.1", f"e{event.id}") for event in events]
    changed = [re.findall(r'scope="row">(.*?)</th><td><del>(.*?)</del></td><td><ins>(.*?)</ins>', html) for html in pages]
    assert ("talkers", "—", "150") in changed[2]
    assert ("talkers", "150", "150, 151") in changed[3]
    assert ("ended", "no", "yes") in changed[-1]
    assert all(html.count("<caption>") == bool(found) for html, found in zip(pages, changed, strict=True))


def test_what_a_thin_page_leaves_out_is_on_the_page_of_the_rest_and_of_each_record() -> None:
    file = storm(500, "edits")
    view = view_of(RU)
    rest = page.rest_page(view, file, "1.1")
    assert rest.count("data-from=") == 400
    assert 'id="legs"' in rest
    _, actions = split(file)
    record = page.record_page(view, file, "1.1", f"a{actions[5].id}")
    assert "editMessageText" in record
    assert re.search(r'href="/call/details/1\.1\?s=sig#e\d+"', record)
    assert page.record_page(view, file, "1.1", "a1") == ""
