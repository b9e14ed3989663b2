"""The parser agrees with Telegram's own on every vector (tests/data/html-vectors.json)."""

import json
from pathlib import Path
from typing import Any

import pytest

from callgram_simulator.browser_html import browser_html
from callgram_simulator.markup import MarkupError, parse_html

VECTORS = json.loads((Path(__file__).parents[2] / "data" / "html-vectors.json").read_text())
TYPES = {
    "Bold": "bold",
    "Italic": "italic",
    "Underline": "underline",
    "Strikethrough": "strikethrough",
    "Spoiler": "spoiler",
    "Code": "code",
    "Pre": "pre",
    "PreCode": "pre",
    "BlockQuote": "blockquote",
    "ExpandableBlockQuote": "expandable_blockquote",
    "TextUrl": "text_link",
    "MentionName": "text_mention",
    "CustomEmoji": "custom_emoji",
    "DateTime": "date_time",
}


@pytest.mark.parametrize("vector", [pytest.param(vector, id=vector["in"]) for vector in VECTORS])
def test_html_is_parsed_as_telegram_parses_it(vector: dict[str, Any]) -> None:
    source, expected = vector["in"], vector["out"]
    if source == "x*32769":
        source, expected = "x" * 32769, {"text": "x" * 32769, "entities": []}
    if "error" in expected:
        with pytest.raises(MarkupError) as raised:
            parse_html(source)
        assert f"Can't parse entities: {raised.value}" == expected["error"]
        return
    text, entities = parse_html(source)
    assert text == expected["text"]
    found = [[e.type, e.offset, e.length, *([e.url] if e.url else [])] for e in entities]
    assert found == [[TYPES[kind], *rest] for kind, *rest in expected["entities"]]


def test_pre_with_code_keeps_its_language() -> None:
    _, entities = parse_html('<pre><code class="language-python">x</code></pre>')
    assert [(entity.type, entity.language) for entity in entities] == [("pre", "python")]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        pytest.param("a &lt;script&gt; b", "a &lt;script&gt; b", id="hostile text stays text"),
        pytest.param("<b>x<i>y</i></b>", "<strong>x<em>y</em></strong>", id="nested"),
        pytest.param("😀<b>x</b>", "😀<strong>x</strong>", id="offsets are UTF-16"),
        pytest.param(
            "<a href='https://x.y/\"><img>'>l</a>",
            '<a href="https://x.y/&quot;&gt;&lt;img&gt;" rel="noopener noreferrer" target="_blank">l</a>',
            id="hostile link stays in its attribute",
        ),
        pytest.param(
            "<blockquote expandable>q</blockquote>", '<blockquote class="expandable">q</blockquote>', id="quote"
        ),
    ],
)
def test_browser_html_is_safe_and_nested(source: str, expected: str) -> None:
    assert browser_html(*parse_html(source)) == expected
