"""Text for people: whatever came from outside is shown literally, and no message is ever refused for its markup."""

import unicodedata
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from callgram import catalogue, clock, duration, escape, html_lines, one_line, phone
from callgram.text import MAX_NAME, MAX_TEXT
from callgram_simulator.markup import parse_html

NASTY = st.text(st.sampled_from("<>&\"'/;#xbai lt gt\n\t\\ яё😀"), max_size=60)
OUTSIDE = st.one_of(st.text(max_size=80), NASTY)
TELEGRAM_TEXT = 4096  # code points after entity parsing (Bot API, sendMessage)
TELEGRAM_SOURCE = 32_768  # bytes before it (rule R13)


def shown(html: str) -> str:
    """What a reader sees; raises MarkupError where Telegram would refuse."""
    return parse_html(html)[0]


@pytest.mark.parametrize(
    ("text", "html"),
    [
        pytest.param("Иванов", "Иванов", id="plain"),
        pytest.param("<b>Иван</b>", "&lt;b&gt;Иван&lt;/b&gt;", id="markup"),
        pytest.param("A&B &amp; C", "A&amp;B &amp;amp; C", id="ampersands"),
        pytest.param("a\0b\x07c\x1b[31m", "abc[31m", id="control characters"),
        pytest.param("\u202eсо\u2066лат\u200f", "солат", id="direction marks"),
        pytest.param("и\u0306", "й", id="composed"),
        pytest.param("a\nb\tc", "a\nb\tc", id="newline and tab stay"),
        pytest.param('say "hi"', 'say "hi"', id="quotes need no escape in text"),
    ],
)
def test_escape(text: str, html: str) -> None:
    assert escape(text) == html


@given(OUTSIDE)
@example("&lt")
@example("&#60;script&#62;")
@example("<a href='tg://user?id=1'>x</a>")
@example("</blockquote>")
def test_escaped_text_is_shown_literally_and_makes_no_entity(text: str) -> None:
    html = escape(text)
    visible, entities = parse_html(html)
    assert entities == ()
    assert visible == escape(text).replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    assert visible == "".join(c for c in unicodedata.normalize("NFC", text) if c in visible)
    assert shown(f"<b>{html}</b>") == visible


@given(OUTSIDE)
def test_escaped_text_has_no_control_or_direction_character(text: str) -> None:
    control = {*map(chr, range(9)), *map(chr, range(11, 32)), *map(chr, range(127, 160))}
    assert not (control | {"\u202e", "\u2066", "\ufeff"}) & set(escape(text))


@given(st.lists(OUTSIDE, max_size=12))
def test_a_message_of_escaped_lines_is_always_valid(lines: list[str]) -> None:
    message = html_lines(*(escape(line) for line in lines))
    assert shown(message.html) == "\n".join(shown(escape(line)) for line in lines if escape(line))


@given(st.lists(st.integers(0, 900), min_size=5, max_size=30), st.sampled_from(["я", "<", "&", "😀"]))
def test_a_message_too_long_is_cut_at_a_line_and_stays_valid(lengths: list[int], letter: str) -> None:
    message = html_lines(*(f"<blockquote>{escape(letter * length)}</blockquote>" for length in lengths))
    visible = shown(message.html)
    assert len(visible) <= TELEGRAM_TEXT
    kept = sum(len(f"<blockquote>{escape(letter * length)}</blockquote>") + 1 for length in lengths)
    assert (visible.endswith("…") and kept > MAX_TEXT) or visible == "\n".join(letter * length for length in lengths)


@pytest.mark.parametrize("letter", ["x", "я", "😀", "<"])
def test_the_longest_message_is_short_enough_before_parsing_too(letter: str) -> None:
    message = html_lines(*(escape(letter * 100) for _ in range(60)))
    assert len(message.html.encode()) <= TELEGRAM_SOURCE


def test_a_line_too_long_is_left_out_and_said_so() -> None:
    assert html_lines("first", "x" * MAX_TEXT, "last").html == "first\n…"


def test_empty_lines_are_left_out() -> None:
    assert html_lines("", "a", "", "b", "").html == "a\nb"
    assert html_lines().html == ""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("  Иван \n Иванов\t", "Иван Иванов", id="white space"),
        pytest.param("a\r\nb", "a b", id="CRLF"),
        pytest.param("a\rb", "a b", id="CR alone separates too"),
        pytest.param("a\u2028b", "a b", id="line separator"),
        pytest.param("a\0b", "ab", id="NUL"),
        pytest.param("x" * MAX_NAME, "x" * MAX_NAME, id="exactly as long"),
        pytest.param("x" * 10_000, "x" * (MAX_NAME - 1) + "…", id="10 000 characters"),
        pytest.param("", "", id="empty"),
    ],
)
def test_one_line(text: str, line: str) -> None:
    assert one_line(text) == line


@given(st.text(max_size=300), st.integers(1, 200))
def test_one_line_is_short_is_one_line_and_is_idempotent(text: str, limit: int) -> None:
    line = one_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    assert one_line(line, limit) == line


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        pytest.param(0, "0:00", id="nothing"),
        pytest.param(-3.0, "0:00", id="a clock that went back"),
        pytest.param(7, "0:07", id="seconds"),
        pytest.param(31.4, "0:31", id="rounded down"),
        pytest.param(59.6, "1:00", id="rounded up over the minute"),
        pytest.param(724, "12:04", id="minutes"),
        pytest.param(3599.9, "1:00:00", id="rounded up over the hour"),
        pytest.param(3723, "1:02:03", id="hours"),
        pytest.param(90_061, "25:01:01", id="more than a day"),
    ],
)
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.integers(0, 10**6))
def test_duration_reads_back(seconds: int) -> None:
    parts = [int(part) for part in duration(seconds).split(":")]
    assert sum(part * 60**power for power, part in enumerate(reversed(parts))) == seconds


@pytest.mark.parametrize(
    ("number", "text"),
    [
        pytest.param("375296254070", "+375 (29) 625-40-70", id="canonical"),
        pytest.param("151", "151", id="extension"),
        pytest.param("<b>", "&lt;b&gt;", id="escaped"),
        pytest.param("1\n2", "1 2", id="one line"),
        pytest.param("x" * 10_000, "x" * 39 + "…", id="bounded"),
    ],
)
def test_phone(number: str, text: str) -> None:
    assert phone(number) == text


@settings(deadline=None)  # phonenumbers reads its tables on first use
@given(OUTSIDE)
def test_any_number_can_be_shown(text: str) -> None:
    visible, entities = parse_html(phone(text))
    assert entities == ()
    assert len(visible.splitlines()) <= 1


def test_clock_is_in_the_zone_of_the_enterprise() -> None:
    at = datetime(2025, 9, 14, 21, 5, 23, tzinfo=UTC)
    assert clock(at, ZoneInfo("Europe/Minsk")) == "15.09.2025 00:05:23"


@pytest.mark.parametrize(
    "package", ["callgram", "callgram_start", "callgram_dial", "callgram_hangup", "callgram_internal"]
)
def test_both_languages_have_the_same_words_with_the_same_gaps(package: str) -> None:
    russian, english = catalogue(package, "ru"), catalogue(package, "en")
    assert russian.keys() == english.keys()
    for key, words in russian.items():
        gaps = {part.split("}")[0] for part in words.split("{")[1:]}
        assert gaps == {part.split("}")[0] for part in english[key].split("{")[1:]}, key
