"""Text and entities as HTML that is safe to put into a page: everything from outside is escaped. Pure."""

from collections.abc import Iterable
from html import escape
from itertools import pairwise

from callgram_simulator.wire import Entity

_TAGS = {
    "bold": "strong",
    "italic": "em",
    "underline": "u",
    "strikethrough": "s",
    "spoiler": 'span class="spoiler"',
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
    "expandable_blockquote": 'blockquote class="expandable"',
}


def browser_html(text: str, entities: Iterable[Entity]) -> str:
    """Answer HTML for ``text``; entities may nest or overlap, offsets are UTF-16. Line breaks are kept as they are."""
    units = text.encode("utf-16-le")
    n_units = len(units) // 2
    spans = sorted(entities, key=lambda entity: (entity.offset, -entity.length))
    edges = {0, n_units}
    for entity in spans:
        edges |= {min(entity.offset, n_units), min(entity.offset + entity.length, n_units)}
    out: list[str] = []
    open_now: list[Entity] = []
    ordered = sorted(edges)
    for begin, end in pairwise(ordered):
        covering = [e for e in spans if e.offset <= begin and end <= e.offset + e.length and _start_tag(e)]
        kept = 0
        while kept < min(len(open_now), len(covering)) and open_now[kept] is covering[kept]:
            kept += 1
        out += [_end_tag(entity) for entity in reversed(open_now[kept:])]
        out += [_start_tag(entity) for entity in covering[kept:]]
        open_now = covering
        out.append(escape(units[begin * 2 : end * 2].decode("utf-16-le", "replace")))
    out += [_end_tag(entity) for entity in reversed(open_now)]
    return "".join(out)


def _start_tag(entity: Entity) -> str:
    if entity.type == "text_link" and entity.url and entity.url.startswith(("http://", "https://")):
        return f'<a href="{escape(entity.url)}" rel="noopener noreferrer" target="_blank">'
    tag = _TAGS.get(entity.type)
    return f"<{tag}>" if tag else ""


def _end_tag(entity: Entity) -> str:
    tag = "a" if entity.type == "text_link" else _TAGS[entity.type].split()[0]
    return f"</{tag}>"
