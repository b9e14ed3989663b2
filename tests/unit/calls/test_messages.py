"""What readers see: the messages of the shipped plugins, word for word.

``tests/golden`` has the transcript of each scenario and each capture: what one chat shows, and when. CALLGRAM_GOLDEN=write
writes them anew; read the diff.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from callgram import Call, Chat, Message, Stage
from callgram.context import Locale
from callgram.dispatch import run_now

from .traffic import BEGAN, SHIPPED, Played, Posted, Source, context, hostile, play, scenarios, source, sources, timed

GOLDEN = Path(__file__).parents[2] / "golden"
RUSSIAN, ENGLISH = Locale(language="ru"), Locale(language="en")
CHAT = Chat(id=1001)
SCENARIOS = [pytest.param(scenario, id=scenario.name) for scenario in scenarios()]
HOSTILE = '<b>&"\u202e</b>\n<a href="tg://user?id=1">x</a>'


def drawn(call: Call, stage: Stage, locale: Locale = RUSSIAN) -> Message:
    """The message of the first shipped plugin that answers."""
    answers = (
        run_now(plugin.render_message(context(name, BEGAN, locale), call, stage, CHAT))
        for name, plugin in SHIPPED.items()
    )
    return next(answer for answer in answers if answer is not None)


def transcript(played: Played, locale: Locale = RUSSIAN) -> str:
    """Each message that a chat would show, when it appears or changes, as people read it."""
    lines: list[str] = []
    seen: dict[int, str] = {}
    for event, call, stage in played.told:
        html = drawn(call, stage, locale).html
        if seen.get(call.id) == html:
            continue
        seen[call.id] = html
        after_s = (event.received_at - BEGAN).total_seconds()
        lines += [f"--- {after_s:.1f} s, {event.kind}: {stage}", html, ""]
    return "\n".join(lines)


@pytest.mark.parametrize("recorded", [pytest.param(one, id=one.name) for one in sources()])
def test_all_recorded_traffic_reads_as_its_golden_transcript(recorded: Source) -> None:
    text = transcript(play(timed(recorded.posts), show=True))
    path = GOLDEN / f"{recorded.name}.txt"
    if os.environ.get("CALLGRAM_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


def test_no_golden_transcript_is_left_of_traffic_that_is_gone() -> None:
    written = {str(path.relative_to(GOLDEN)).removesuffix(".txt") for path in GOLDEN.rglob("*.txt")}
    assert written == {recorded.name for recorded in sources()}


# The heads that readers know from the old system


def shown(name: str, stage: Stage, locale: Locale = RUSSIAN) -> list[str]:
    """The lines of the last message that a scenario shows at a stage."""
    played = play(timed(source(name).posts), show=True)
    call = next(call for _, call, told in reversed(played.told) if told is stage)
    return drawn(call, stage, locale).html.split("\n")


HEADS = [
    pytest.param("incoming-answered", Stage.START, ["📞 Входящий звонок", "💰+375 (29) 625-40-70"], id="start"),
    pytest.param(
        "incoming-answered",
        Stage.DIAL,
        ["📞 Входящий звонок", "💰+375 (29) 625-40-70", "☎️150", "☎️151", "☎️152"],
        id="dial incoming",
    ),
    pytest.param(
        "outgoing-answered", Stage.DIAL, ["📞 Исходящий звонок", "☎️151 ➡️ 💰+375 (29) 625-40-70"], id="dial outgoing"
    ),
    pytest.param(
        "outgoing-answered", Stage.BRIDGE, ["☎️151 📞➡️ 💰+375 (29) 625-40-70", "⏱с 12:05:30"], id="bridge outgoing"
    ),
    pytest.param(
        "incoming-answered", Stage.BRIDGE, ["☎️151 📞⬅️ 💰+375 (29) 625-40-70", "⏱с 12:05:25"], id="bridge incoming"
    ),
    pytest.param(
        "incoming-answered",
        Stage.HANGUP,
        [
            "✅Успешный входящий звонок",
            "💰+375 (29) 625-40-70",
            "☎️151",
            "📡0001363",
            "⏰14.09.2025 12:05:23",
            "⌛Разговор 0:31",
        ],
        id="hangup incoming answered",
    ),
    pytest.param(
        "incoming-missed",
        Stage.HANGUP,
        [
            "❌Пропущенный входящий звонок",
            "💰+375 (29) 625-40-70",
            "☎️150",
            "☎️151",
            "📡0001363",
            "⏰14.09.2025 12:05:23",
            "⌛Ожидание 0:23",
        ],
        id="hangup incoming missed",
    ),
]


@pytest.mark.parametrize(("name", "stage", "lines"), HEADS)
def test_each_stage_has_the_lines_that_readers_know(name: str, stage: Stage, lines: list[str]) -> None:
    assert shown(name, stage) == lines


FIRST_LINES = [
    # scenario, stage, Russian, English
    ("incoming-answered", Stage.START, "📞 Входящий звонок", "📞 Incoming call"),
    ("incoming-answered", Stage.DIAL, "📞 Входящий звонок", "📞 Incoming call"),
    ("outgoing-answered", Stage.DIAL, "📞 Исходящий звонок", "📞 Outgoing call"),
    ("incoming-answered", Stage.HANGUP, "✅Успешный входящий звонок", "✅Answered incoming call"),
    ("incoming-missed", Stage.HANGUP, "❌Пропущенный входящий звонок", "❌Missed incoming call"),
    ("outgoing-answered", Stage.HANGUP, "✅Успешный исходящий звонок", "✅Answered outgoing call"),
    ("outgoing-unanswered", Stage.HANGUP, "❌Неотвеченный исходящий звонок", "❌Unanswered outgoing call"),
    ("internal-answered", Stage.HANGUP, "✅Успешный внутренний звонок", "✅Answered internal call"),
    ("internal-unanswered", Stage.HANGUP, "❌Неотвеченный внутренний звонок", "❌Unanswered internal call"),
]


@pytest.mark.parametrize(
    ("name", "stage", "russian", "english"), FIRST_LINES, ids=[f"{name} {stage}" for name, stage, _, _ in FIRST_LINES]
)
def test_the_language_is_a_setting(name: str, stage: Stage, russian: str, english: str) -> None:
    assert shown(name, stage)[0] == russian
    assert shown(name, stage, ENGLISH)[0] == english


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_english_transcript_has_no_russian_word(scenario: Source) -> None:
    assert re.search("[а-яё]", transcript(play(timed(scenario.posts), show=True), ENGLISH), re.I) is None


# Lines that grow, hide or come from outside


def ringing(*extensions: str) -> list[str]:
    start, _, dial, *_ = source("incoming-answered").posts
    played = play(timed([start, hostile(dial, Extensions=list(extensions))]), show=True)
    _, call, stage = played.told[-1]
    return drawn(call, stage).html.split("\n")


def test_four_extensions_are_four_lines() -> None:
    assert ringing("150", "151", "152", "153")[2:] == ["☎️150", "☎️151", "☎️152", "☎️153"]


def test_more_than_four_extensions_fold_into_an_expandable_quote() -> None:
    assert ringing("150", "151", "152", "153", "154")[2:] == [
        "<blockquote expandable>☎️150", "☎️151", "☎️152", "☎️153", "☎️154</blockquote>"
    ]  # fmt: skip


def test_a_thousand_extensions_still_fit_one_message_with_no_tag_left_open() -> None:
    html = "\n".join(ringing(*(str(number) for number in range(1000, 2000))))
    assert len(html) <= 4096
    assert html.count("<blockquote") == html.count("</blockquote>")


def test_a_hidden_client_is_said_to_be_hidden() -> None:
    assert shown("incoming-hidden-number", Stage.HANGUP)[1] == "💰Скрытый номер"
    assert shown("incoming-hidden-number", Stage.HANGUP, ENGLISH)[1] == "💰Hidden number"


def test_a_call_without_an_end_says_that_its_end_was_not_received() -> None:
    posts = source("incoming-answered").posts[:6]
    _, call, stage = play(timed(posts), show=True).silence().told[-1]
    assert stage is Stage.HANGUP
    assert drawn(call, stage).html.split("\n")[-1] == "ℹ️Окончание звонка не получено"


def every_message(posts: list[Posted]) -> str:
    return transcript(play(timed(posts), show=True).silence())


@pytest.mark.parametrize("field", ["Phone", "Trunk", "CallerIDNum", "CallerIDName", "ConnectedLineNum", "Channel"])
@pytest.mark.parametrize("name", ["incoming-answered", "outgoing-answered", "internal-answered", "incoming-missed"])
def test_hostile_text_in_any_field_stays_text(name: str, field: str) -> None:
    html = every_message([hostile(post, **{field: HOSTILE}) for post in source(name).posts])
    assert re.findall(r"<[^>]*>", html) == []
    assert "\u202e" not in html
    assert re.search(r"&(?!amp;|lt;|gt;|quot;)", html) is None


@pytest.mark.parametrize("name", ["incoming-answered", "outgoing-answered", "incoming-missed"])
def test_hostile_extensions_stay_text(name: str) -> None:
    posts = [
        hostile(post, Extensions=[HOSTILE, "<i>"]) if post.kind in {"dial", "hangup"} else post
        for post in source(name).posts
    ]
    html = every_message(posts)
    assert re.findall(r"<[^>]*>", html) == []


def test_a_client_of_ten_thousand_characters_is_cut() -> None:
    html = every_message([hostile(post, Phone="ы" * 10_000) for post in source("incoming-missed").posts])
    assert max(len(line) for line in html.split("\n")) < 200
