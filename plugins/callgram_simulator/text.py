"""What the server makes of a text before it stores it: cleaned, trimmed, entities moved along (rules R12-R17). Pure."""

import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from callgram_simulator.errors import bad_request
from callgram_simulator.links import checked_link
from callgram_simulator.markup import MarkupError, parse_html, utf16_length
from callgram_simulator.params import Params
from callgram_simulator.wire import Entity

MAX_SOURCE_BYTES = 32768
MAX_TEXT = 4096
MAX_ENTITIES = 100
_TO_SPACE = {code: " " for code in range(32) if code not in (10, 13)}
_REMOVED = dict.fromkeys([13, 0x333, 0x33F, 0x30A, *range(0x2028, 0x202F)])
_CLEANING: dict[int, str | None] = {**_TO_SPACE, **_REMOVED}
_DIRTY = re.compile("[" + "".join(map(re.escape, map(chr, _CLEANING))) + "]")
_WHITESPACE = " \n"


def requested_text(params: Params, name: str = "text") -> tuple[str, tuple[Entity, ...]]:
    """Answer the text and entities that a request asks for, parsed but not yet trimmed. Raise ``ApiError``."""
    source = params.text(name)
    if not source:
        raise bad_request("message text is empty")
    if len(source) * 4 > MAX_SOURCE_BYTES and len(source.encode()) > MAX_SOURCE_BYTES:
        raise bad_request("text is too long")
    mode = params.text("parse_mode").lower()
    if not mode or mode == "none":
        return source, _explicit_entities(params)
    if mode in ("markdown", "markdownv2"):
        raise bad_request("the simulator does not parse Markdown: send HTML or entities")
    if mode != "html":
        raise bad_request("unsupported parse_mode")
    try:
        return parse_html(source)
    except MarkupError as error:
        raise bad_request(f"can't parse entities: {error}") from error


def normalized(text: str, entities: Sequence[Entity]) -> tuple[str, tuple[Entity, ...]]:
    """Clean and trim as the server does. Raise ``ApiError`` when nothing is left."""
    if _DIRTY.search(text):
        text, entities = _cleaned(text, entities)
    trimmed = text.lstrip(_WHITESPACE)
    cut = len(text) - len(trimmed)  # whitespace is one UTF-16 unit a character
    trimmed = trimmed.rstrip(_WHITESPACE)
    if not trimmed:
        raise bad_request("text must be non-empty")
    if cut or len(trimmed) != len(text):
        length = utf16_length(trimmed)
        entities = [kept for entity in entities if (kept := _clipped(entity, cut, length))]
    return trimmed, tuple(_without_repeats(entities))[:MAX_ENTITIES]


def _cleaned(text: str, entities: Sequence[Entity]) -> tuple[str, list[Entity]]:
    """Replace control characters and move the entities by the characters that vanish."""
    new_offset = [0]
    for character in text:
        kept = 0 if _CLEANING.get(ord(character), "") is None else 1 + (character > "\uffff")
        units = 2 if character > "\uffff" else 1
        new_offset += [new_offset[-1] + kept] * units
    moved = []
    for entity in entities:
        begin = new_offset[min(entity.offset, len(new_offset) - 1)]
        end = new_offset[min(entity.offset + entity.length, len(new_offset) - 1)]
        if end > begin:
            moved.append(msgspec.structs.replace(entity, offset=begin, length=end - begin))
    return text.translate(_CLEANING), moved


def _clipped(entity: Entity, cut: int, length: int) -> Entity | None:
    begin = max(entity.offset - cut, 0)
    end = min(entity.offset + entity.length - cut, length)
    return msgspec.structs.replace(entity, offset=begin, length=end - begin) if end > begin else None


def _without_repeats(entities: Iterable[Entity]) -> Iterable[Entity]:
    """Drop an entity inside another of its type: bold in bold is bold."""
    ends: dict[str, int] = {}
    for entity in entities:
        end = entity.offset + entity.length
        if end > ends.get(entity.type, 0):
            ends[entity.type] = end
            yield entity


def _explicit_entities(params: Params) -> tuple[Entity, ...]:
    source = params.text("entities")
    if not source:
        return ()
    try:
        given = msgspec.json.decode(source, type=list[dict[str, Any]])
        entities = msgspec.convert(given, type=list[Entity])
    except msgspec.MsgspecError as error:
        raise bad_request("can't parse MessageEntity JSON object") from error
    usable = [entity for entity in entities if entity.length > 0 and entity.offset >= 0]
    checked = [entity for entity in usable if not entity.url or checked_link(entity.url)]
    return tuple(sorted(checked, key=lambda entity: (entity.offset, -entity.length)))
