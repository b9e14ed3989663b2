"""Telegram's HTML: markup in, text and entities out, with the errors of the real parser (td MessageEntity.cpp). Pure.

Entities count in UTF-16 code units, errors in bytes of UTF-8, as the Bot API has them.
"""

from collections.abc import Callable

from msgspec import Struct

from callgram_simulator.links import checked_link, linked_user_id
from callgram_simulator.wire import Entity, User

_ENTITY_TYPES = {
    "b": "bold",
    "strong": "bold",
    "i": "italic",
    "em": "italic",
    "u": "underline",
    "ins": "underline",
    "s": "strikethrough",
    "strike": "strikethrough",
    "del": "strikethrough",
    "span": "spoiler",
    "tg-spoiler": "spoiler",
    "tg-emoji": "custom_emoji",
    "tg-time": "date_time",
    "a": "text_link",
    "code": "code",
    "pre": "pre",
    "blockquote": "blockquote",
}
_NAMED_REFERENCES = {"lt": "<", "gt": ">", "amp": "&", "quot": '"'}
_SPACES = " \t\r\n\v\0"
_END = "\0"
_DIGITS = frozenset("0123456789")
_HEX_DIGITS = frozenset("0123456789abcdefABCDEF")


class MarkupError(ValueError):
    """The markup can't be parsed; the message is Telegram's, without ``can't parse entities: `` in front."""


class _OpenTag(Struct):
    name: str
    argument: str
    offset: int
    start: int
    """Where the tag's content begins in the pieces of the text."""


def utf16_length(text: str) -> int:
    return len(text) + sum(character > "\uffff" for character in text)


def parse_html(source: str) -> tuple[str, tuple[Entity, ...]]:
    """Answer the text and the entities of ``source``, outer entities first; raise ``MarkupError``."""
    if "<" not in source and "&" not in source:
        return source, ()
    return _HtmlParser(source).parse()


class _HtmlParser:
    """One pass over the source. A sentinel NUL at its end stands for the C string's, so that no index runs out."""

    def __init__(self, source: str) -> None:
        self.source = source + _END
        self.at = 0
        self.pieces: list[str] = []
        self.offset = 0
        self.open_tags: list[_OpenTag] = []
        self.entities: list[Entity] = []

    def parse(self) -> tuple[str, tuple[Entity, ...]]:
        end = len(self.source) - 1
        while self.at < end:
            character = self.source[self.at]
            if character == "<":
                self.read_tag()
                continue
            decoded = self.read_reference() if character == "&" else None
            if decoded is None:
                decoded = character
                self.at += 1
            self.pieces.append(decoded)
            self.offset += 1 + (decoded > "\uffff")
        if self.open_tags:
            raise MarkupError(f'Can\'t find end tag corresponding to start tag "{self.open_tags[-1].name}"')
        text = "".join(self.pieces)
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise MarkupError(
                "Text contains invalid Unicode characters after decoding HTML entities, "
                "check for unmatched surrogate code units"
            )
        return text, tuple(sorted(map(_without_code_language, self.entities), key=_outer_first))

    def read_tag(self) -> None:
        begin = self.at
        self.at += 1
        if self.source[self.at] == "/":
            self.read_end_tag(begin)
        else:
            self.read_start_tag(begin)

    def read_start_tag(self, begin: int) -> None:
        name = self.read_until(lambda character: character in _SPACES or character == ">").lower()
        if self.at_end():
            raise self.unclosed(begin)
        if name not in _ENTITY_TYPES:
            raise MarkupError(f'Unsupported start tag "{name}" at byte offset {self.byte_offset(begin)}')
        argument = ""
        while True:
            self.skip_spaces()
            if self.at_end():
                raise self.unclosed(begin)
            if self.source[self.at] == ">":
                break
            attribute, value = self.read_attribute(name, begin)
            argument = _argument(name, attribute, value) or argument
        self.at += 1
        if name == "span" and argument != "spoiler":
            raise MarkupError(f'Tag "span" must have class "tg-spoiler" at byte offset {self.byte_offset(begin)}')
        self.open_tags.append(_OpenTag(name, argument, self.offset, len(self.pieces)))

    def read_attribute(self, tag: str, begin: int) -> tuple[str, str]:
        name = self.read_until(lambda character: character in _SPACES or character in "=>")
        if not name:
            where = self.byte_offset(begin)
            raise MarkupError(f'Empty attribute name in the tag "{tag}" at byte offset {where}')
        self.skip_spaces()
        if self.source[self.at] != "=":
            return name, ""
        self.at += 1
        self.skip_spaces()
        if self.at_end():
            raise self.unclosed(begin)
        quote = self.source[self.at]
        return name, self.read_quoted(quote) if quote in "'\"" else self.read_name_token()

    def read_quoted(self, quote: str) -> str:
        self.at += 1
        value = []
        while self.source[self.at] != quote and not self.at_end():
            decoded = self.read_reference() if self.source[self.at] == "&" else None
            if decoded is None:
                decoded = self.source[self.at]
                self.at += 1
            value.append(decoded)
        if not self.at_end():
            self.at += 1
        return "".join(value)

    def read_name_token(self) -> str:
        begin = self.at
        token = self.read_until(
            lambda character: not (character.isascii() and (character.isalnum() or character in ".-"))
        )
        if self.source[self.at] not in _SPACES and self.source[self.at] != ">":
            raise MarkupError(f"Unexpected end of name token at byte offset {self.byte_offset(begin)}")
        return token.lower()

    def read_end_tag(self, begin: int) -> None:
        if not self.open_tags:
            raise MarkupError(f"Unexpected end tag at byte offset {self.byte_offset(begin)}")
        self.at += 1
        found = self.read_until(lambda character: character in _SPACES or character == ">")
        self.skip_spaces()
        if self.source[self.at] != ">":
            raise MarkupError(f"Unclosed end tag at byte offset {self.byte_offset(begin)}")
        self.at += 1
        tag = self.open_tags.pop()
        if found and found.lower() != tag.name:
            where = self.byte_offset(begin)
            raise MarkupError(f'Unmatched end tag at byte offset {where}, expected "</{tag.name}>", found "</{found}>"')
        if self.offset > tag.offset:
            self.close(tag)

    def close(self, tag: _OpenTag) -> None:
        """Turn a tag that has content into an entity; ``pre`` and ``code`` around the same text become one."""
        length = self.offset - tag.offset
        last = self.entities[-1] if self.entities else None
        wraps_last = last is not None and (last.offset, last.length) == (tag.offset, length)
        if last is not None and wraps_last and tag.name == "pre" and last.type == "code" and last.language:
            self.entities[-1] = Entity(type="pre", offset=last.offset, length=length, language=last.language)
        elif last is not None and wraps_last and tag.name == "code" and last.type == "pre" and tag.argument:
            self.entities[-1] = Entity(type="pre", offset=last.offset, length=length, language=tag.argument)
        else:
            entity = _entity(tag, length, "".join(self.pieces[tag.start :]))
            if entity is not None:
                self.entities.append(entity)

    def read_reference(self) -> str | None:
        """Decode ``&...`` here and step over it; ``None`` where it is plain text. The semicolon may be missing."""
        at = self.at + 1
        if self.source[at] == "#":
            is_hex = self.source[at + 1] == "x"
            first = at + 1 + is_hex
            digits = self.span_of(first, _HEX_DIGITS if is_hex else _DIGITS)
            at = first + len(digits)
            code = int(digits, 16 if is_hex else 10) if digits else 0
            if not 0 < code < 0x10FFFF or at - self.at >= 10:
                return None
            decoded = chr(code)
        else:
            name = self.letters_at(at)
            if name not in _NAMED_REFERENCES:
                return None
            at += len(name)
            decoded = _NAMED_REFERENCES[name]
        self.at = at + (self.source[at] == ";")
        return decoded

    def letters_at(self, begin: int) -> str:
        at = begin
        while self.source[at].isascii() and self.source[at].isalpha():
            at += 1
        return self.source[begin:at]

    def span_of(self, begin: int, alphabet: frozenset[str]) -> str:
        at = begin
        while self.source[at] in alphabet:
            at += 1
        return self.source[begin:at]

    def read_until(self, stops: Callable[[str], bool]) -> str:
        begin = self.at
        while not self.at_end() and not stops(self.source[self.at]):
            self.at += 1
        return self.source[begin : self.at]

    def skip_spaces(self) -> None:
        while not self.at_end() and self.source[self.at] in _SPACES:
            self.at += 1

    def at_end(self) -> bool:
        return self.source[self.at] == _END

    def unclosed(self, begin: int) -> MarkupError:
        return MarkupError(f"Unclosed start tag at byte offset {self.byte_offset(begin)}")

    def byte_offset(self, at: int) -> int:
        return len(self.source[:at].encode())


def _argument(tag: str, attribute: str, value: str) -> str:
    """Answer what ``tag`` takes from the attribute, ``""`` for nothing."""
    match tag, attribute:
        case ("a", "href") | ("tg-emoji", "emoji-id") | ("tg-time", "unix"):
            return value
        case "code", "class":
            return value.removeprefix("language-") if value.startswith("language-") else ""
        case "span", "class":
            return value.removeprefix("tg-") if value.startswith("tg-") else ""
        case "blockquote", "expandable":
            return "expandable"
    return ""


def _entity(tag: _OpenTag, length: int, content: str) -> Entity | None:
    kind = _ENTITY_TYPES[tag.name]
    match kind:
        case "text_link":
            url = tag.argument or content
            user_id = linked_user_id(url)
            if user_id:
                user = User(id=user_id, is_bot=False, first_name=content)
                return Entity(type="text_mention", offset=tag.offset, length=length, user=user)
            link = checked_link(url)
            return Entity(type=kind, offset=tag.offset, length=length, url=link) if link else None
        case "custom_emoji":
            if not tag.argument.isascii() or not tag.argument.isdigit():
                raise MarkupError("Invalid custom emoji identifier specified")
            return Entity(type=kind, offset=tag.offset, length=length, custom_emoji_id=tag.argument)
        case "code":
            return Entity(type=kind, offset=tag.offset, length=length, language=tag.argument or None)
        case "date_time" if tag.argument.isascii() and tag.argument.isdigit():
            return Entity(type=kind, offset=tag.offset, length=length, unix_time=int(tag.argument))
        case "blockquote" if tag.argument:
            kind = "expandable_blockquote"
    return Entity(type=kind, offset=tag.offset, length=length)


def _without_code_language(entity: Entity) -> Entity:
    """``<code class="language-x">`` alone keeps no language; it was remembered only for a ``pre`` around it."""
    if entity.type == "code" and entity.language:
        return Entity(type="code", offset=entity.offset, length=entity.length)
    return entity


def _outer_first(entity: Entity) -> tuple[int, int]:
    return entity.offset, -entity.length
