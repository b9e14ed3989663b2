"""Telephone numbers: one client is one canonical form, and people read a number as they write it."""

import phonenumbers
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from callgram.numbers import NumberPlan, Rewrite, bare, canonical, is_hidden, readable

WRITTEN = st.builds(
    str.__add__, st.sampled_from(["", "+"]), st.text(st.sampled_from("0123456789-() .#*@ABab"), max_size=24)
)
INTERNATIONAL = st.builds(
    lambda country, national: f"{country}{national}",
    st.sampled_from(["375", "7", "48", "49", "1", "44", "998", "298", "20"]),
    st.integers(200_000_000, 9_999_999_999),
)
unhurried = settings(deadline=None)  # phonenumbers reads its tables on first use
REGIONS = st.sampled_from(["BY", "RU", "PL", "DE", "US", "GB"])


def valid(text: str, region: str | None = None) -> str:
    """The number that ``text`` is by the rules of phonenumbers alone, as E.164 without plus; ``""`` when it is none."""
    try:
        parsed = phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return ""
    form = phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.E164)
    return form.removeprefix("+") if phonenumbers.is_valid_number(parsed) else ""


@pytest.mark.parametrize(
    ("written", "region", "expected"),
    [
        pytest.param("+375 (29) 625-40-70", "BY", "375296254070", id="as people write it"),
        pytest.param("375296254070", "BY", "375296254070", id="as hosts write it"),
        pytest.param("80296254070", "BY", "375296254070", id="trunk prefix 8 0"),
        pytest.param("296254070", "BY", "375296254070", id="national"),
        pytest.param("298212345", "BY", "375298212345", id="national that is also a Faroese number"),
        pytest.param("810375296254070", "BY", "375296254070", id="international prefix 8 10"),
        pytest.param("375290000777@outbound", "BY", "375290000777", id="with its dialplan context"),
        pytest.param("375296254070", "US", "375296254070", id="foreign without a plus"),
        pytest.param("2025550123", "US", "12025550123", id="national that is also an Egyptian number"),
        pytest.param("+12025550123", "BY", "12025550123", id="foreign with a plus"),
        pytest.param("89031234567", "RU", "79031234567", id="Russian trunk prefix 8"),
        pytest.param("103", "BY", "103", id="short city number"),
        pytest.param("151", "BY", "151", id="extension"),
        pytest.param("0001363", "BY", "0001363", id="GSM trunk"),
        pytest.param("3880923", "BY", "3880923", id="SIP trunk"),
        pytest.param("0000000", "BY", "0000000", id="no valid number"),
        pytest.param("sip-user", "BY", "sip-user", id="no digits at all"),
        pytest.param("sip-user7", "BY", "sip-user7", id="digits of a name"),
        pytest.param("tel:+375296254070", "BY", "375296254070", id="a scheme"),
        pytest.param("SIP:375296254070@pbx", "BY", "375296254070", id="an address of SIP"),
        pytest.param("", "BY", "", id="empty"),
        pytest.param("Anonymous", "BY", "", id="Anonymous"),
        pytest.param("<unknown>", "BY", "", id="<unknown>"),
        pytest.param("anonymous@anonymous.invalid", "BY", "", id="anonymous of SIP"),
    ],
)
def test_canonical(written: str, region: str, expected: str) -> None:
    assert canonical(written, region) == expected


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        pytest.param("375296254070", "+375 (29) 625-40-70", id="Belarus"),
        pytest.param("74951234567", "+7 (495) 123-45-67", id="Russia"),
        pytest.param("12025550123", "+1 (202) 555-0123", id="United States"),
        pytest.param("151", "151", id="extension"),
        pytest.param("103", "103", id="short"),
        pytest.param("0001363", "0001363", id="trunk"),
        pytest.param("sip-user", "sip-user", id="a name"),
        pytest.param("", "", id="hidden"),
    ],
)
def test_readable(number: str, expected: str) -> None:
    assert readable(number) == expected


@pytest.mark.parametrize("hidden", ["", " ", "Anonymous", "RESTRICTED", "<unknown>", "unknown", "s", "unavailable@x"])
def test_hidden_numbers_have_no_canonical_form(hidden: str) -> None:
    assert is_hidden(hidden)
    assert canonical(hidden, "BY") == ""


@unhurried
@given(WRITTEN, REGIONS)
@example("80296254070", "BY")
@example("+80296254070", "BY")
def test_canonical_is_idempotent(written: str, region: str) -> None:
    once = canonical(written, region)
    assume(valid(once, region) in {"", once} or not valid(f"+{once}"))  # else it is also a national number
    assert canonical(once, region) == once


@unhurried
@given(WRITTEN, REGIONS)
def test_canonical_has_no_plus_and_no_context(written: str, region: str) -> None:
    found = canonical(written, region)
    assert not found or found.isdigit() or not any(character.isdigit() for character in bare(written)) or named(found)


def named(number: str) -> bool:
    """A name of SIP: its digits are no number."""
    return any(character.isalpha() for character in number)


@settings(unhurried, suppress_health_check=[HealthCheck.filter_too_much])
@given(INTERNATIONAL, REGIONS)
@example("375296254070", "US")
@example("4930123456", "BY")
def test_an_international_number_is_the_same_with_and_without_plus(digits: str, region: str) -> None:
    assume(valid(f"+{digits}") == digits and valid(digits, region) in {"", digits})  # else it is a national number
    assert canonical(digits, region) == canonical(f"+{digits}", region) == digits


@unhurried
@given(st.integers(1_000_000, 9_999_999), st.sampled_from(["29", "33", "44", "25"]))
@example(8212345, "29")
def test_every_way_to_write_a_belarusian_mobile_is_one_client(subscriber: int, code: str) -> None:
    whole = f"375{code}{subscriber}"
    assume(valid(f"+{whole}") == whole)
    plan = NumberPlan()
    national = f"{code}{subscriber}"
    for written in (whole, f"+375 ({code}) {subscriber}", f"80{national}", f"810{whole}", national):
        assert plan.canonical(written) == whole


@unhurried
@given(WRITTEN, REGIONS)
def test_reading_a_number_back_gives_the_same_client(written: str, region: str) -> None:
    once = canonical(written, region)
    shown = readable(once)
    assert "".join(filter(str.isdigit, shown)) == "".join(filter(str.isdigit, once))
    assert readable(shown) == shown


@unhurried
@given(st.text(max_size=60))
def test_no_text_breaks_the_number_functions(text: str) -> None:
    assert isinstance(readable(canonical(text, "BY")), str)
    assert isinstance(readable(text), str)


@pytest.mark.parametrize(
    ("pattern", "inside", "outside"),
    [
        pytest.param(r"\d{3,4}", ["103", "1500"], ["12", "15000", "15a", "+150", "150 ", ""], id="the default"),
        pytest.param(r"1\d\d", ["150"], ["103x", "250", "1500"], id="of an enterprise"),
    ],
)
def test_an_extension_is_the_whole_of_the_pattern(pattern: str, inside: list[str], outside: list[str]) -> None:
    plan = NumberPlan(extension=pattern)
    assert all(plan.is_extension(number) for number in inside)
    assert not any(plan.is_extension(number) for number in outside)


# Rules for numbers that a trunk delivers in a form of its own


LAST_NINE = Rewrite(match=r"8?0?\d{9}", prefix="375", last=9)


@pytest.mark.parametrize(
    ("written", "client"),
    [
        pytest.param("296254070", "375296254070", id="without prefix"),
        pytest.param("80296254070", "375296254070", id="national"),
        pytest.param("375296254070", "375296254070", id="no rule fits"),
        pytest.param("375296254070@outbound", "375296254070", id="with its context"),
        pytest.param("103", "103", id="a short city number"),
        pytest.param("<unknown>", "", id="hidden"),
    ],
)
def test_a_rule_makes_of_the_last_digits_the_number_of_the_client(written: str, client: str) -> None:
    assert NumberPlan(rewrite=(LAST_NINE,)).canonical(written) == client


def test_the_first_rule_that_fits_counts() -> None:
    rules = (Rewrite(match=r"00\d{9}", prefix="49", last=9), Rewrite(match=r"\d{11}", prefix="375", last=9))
    assert NumberPlan(rewrite=rules).canonical("00296254070") == "49296254070"


def test_a_rule_that_would_take_more_digits_than_there_are_does_not_fit() -> None:
    assert NumberPlan(rewrite=(Rewrite(match=r"\d+", prefix="375", last=9),)).canonical("12345") == "12345"
