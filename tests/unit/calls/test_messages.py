"""What readers see: the messages of the shipped plugins, word for word.

``tests/golden`` has the transcript of each scenario and each capture: what one chat shows, and when. CALLGRAM_GOLDEN=write
writes them anew; read the diff.
"""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from callgram import Call, Message, Stage
from callgram.context import Locale
from callgram.dispatch import run_now

from .traffic import BEGAN, SHIPPED, Played, Source, context, hostile, play, scenarios, source, sources, timed

GOLDEN = Path(__file__).parents[2] / "golden"
RUSSIAN, ENGLISH = Locale(language="ru"), Locale(language="en")
SCENARIOS = [pytest.param(scenario, id=scenario.name) for scenario in scenarios()]


def drawn(call: Call, stage: Stage, locale: Locale = RUSSIAN) -> Message:
    """The message of the first shipped plugin that answers."""
    answers = (
        run_now(plugin.render_message(context(name, BEGAN, locale), call, stage))
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
            "📴Завершил 151",
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


def test_of_a_thousand_extensions_the_first_are_named_and_the_others_counted() -> None:
    lines = ringing(*(str(number) for number in range(1000, 2000)))
    assert lines[2:4] == ["<blockquote expandable>☎️1000", "☎️1001"]
    assert lines[-2:] == ["☎️1019", "… +980</blockquote>"]


def test_a_hidden_client_is_said_to_be_hidden() -> None:
    assert shown("incoming-hidden-number", Stage.HANGUP)[1] == "💰Скрытый номер"
    assert shown("incoming-hidden-number", Stage.HANGUP, ENGLISH)[1] == "💰Hidden number"


def test_a_call_without_an_end_says_that_its_end_was_not_received() -> None:
    posts = source("incoming-answered").posts[:6]
    _, call, stage = play(timed(posts), show=True).silence().told[-1]
    assert stage is Stage.HANGUP
    assert drawn(call, stage).html.split("\n")[-1] == "ℹ️Окончание звонка не получено"


def test_a_talk_of_which_only_the_hangup_tells_has_no_duration_and_its_consultation_is_a_part_of_it() -> None:
    """A dialplan tells one bridge a conversation; the first is lost, and the hangup names who answered."""
    recorded = source("asterisk22-pjsip/xfer_attended_refer")
    posts = [post for post in recorded.posts if str(post) != "bridge .113"]
    (call,) = play(timed(posts)).finals
    assert drawn(call, Stage.HANGUP).html.split("\n") == [
        "✅Успешный входящий звонок",
        "💰+375 (29) 111-22-33",
        "☎️151",
        "(перевод: 150 → 151)",
        "📡0001363",
        "⏰14.09.2025 12:05:23",
    ]


def test_a_word_with_a_colleague_while_the_phone_rings_is_no_transfer() -> None:
    """As a dialplan tells it: 150 calls 151, then answers the client."""
    posts = source("asterisk22-pjsip/xfer_attended_refer").posts
    answered_later = [replace(post, at_s=6.0) if str(post) == "bridge .113" else post for post in posts]
    (call,) = play(timed(sorted(answered_later, key=lambda post: post.at_s))).finals
    assert call.talkers == ("150",)


@pytest.mark.parametrize(("name", "handed_over_at_s"), [("xfer_attended_dtmf", 9.7), ("xfer_attended_refer", 5.5)])
@pytest.mark.parametrize("sender", ["", ".agent"])
def test_a_colleague_who_is_consulted_does_not_talk_with_the_client_yet(
    name: str, sender: str, handed_over_at_s: float
) -> None:
    posts = source(f"asterisk22-pjsip/{name}{sender}").posts
    (live,) = play(timed(post for post in posts if post.at_s < handed_over_at_s)).calls
    assert live.talkers == ("150",)
