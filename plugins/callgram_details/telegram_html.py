"""Telegram's HTML as HTML that is safe in a page, and as plain text. Pure.

Only the tags that Telegram knows come through, rebuilt from nothing; everything else is text, and escaped.
"""

from __future__ import annotations

from html import escape
from html.parser import HTMLParser
from urllib.parse import urlsplit

TAGS = {
    "b": "b",
    "strong": "b",
    "i": "i",
    "em": "i",
    "u": "u",
    "ins": "u",
    "s": "s",
    "strike": "s",
    "del": "s",
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
    "tg-spoiler": "span",
}


class _Rebuilder(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.html: list[str] = []
        self.text: list[str] = []
        self._open: list[tuple[str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a" and _is_web(dict(attrs).get("href") or ""):
            self.html.append(
                f'<a href="{escape(dict(attrs)["href"] or "")}" rel="noopener noreferrer nofollow" target="_blank">'
            )
            self._open.append((tag, "a"))
        elif tag in TAGS:
            self.html.append(f"<{TAGS[tag]}>")
            self._open.append((tag, TAGS[tag]))
        else:
            self._as_text(self.get_starttag_text() or "")

    def handle_endtag(self, tag: str) -> None:
        while any(known == tag for known, _ in self._open):
            known, written = self._open.pop()
            self.html.append(f"</{written}>")
            if known == tag:
                break

    def handle_data(self, data: str) -> None:
        self._as_text(data)

    def handle_comment(self, data: str) -> None:
        self._as_text(f"<!--{data}-->")

    def handle_decl(self, decl: str) -> None:
        self._as_text(f"<!{decl}>")

    def handle_pi(self, data: str) -> None:
        self._as_text(f"<?{data}>")

    def unknown_decl(self, data: str) -> None:
        self._as_text(f"<![{data}]>")

    def _as_text(self, text: str) -> None:
        self.html.append(escape(text))
        self.text.append(text)

    def end(self) -> None:
        self.close()
        while self._open:
            self.html.append(f"</{self._open.pop()[1]}>")


def _is_web(url: str) -> bool:
    try:
        return urlsplit(url).scheme in {"http", "https"}
    except ValueError:
        return False


def safe_html(markup: str) -> str:
    """What Telegram would show of ``markup``, as HTML of ours. Never raises, whatever the text."""
    return "".join(_rebuilt(markup).html)


def plain(markup: str) -> str:
    """What a reader would read."""
    return "".join(_rebuilt(markup).text)


def _rebuilt(markup: str) -> _Rebuilder:
    rebuilder = _Rebuilder()
    rebuilder.feed(_surrogate_free(markup))
    rebuilder.end()
    return rebuilder


def _surrogate_free(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
