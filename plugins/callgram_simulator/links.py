"""Which links Telegram accepts, and how it spells them back (td's LinkManager and HttpUrl). Pure."""

import re

_HOST_PORT = re.compile(r"(?P<host>\[[0-9a-f:.]+\]|[^:\s<>\"'()]+)(?::(?P<port>\d{1,5}))?", re.IGNORECASE)
_TG_LINK = re.compile(r"(?P<scheme>tg|ton):(?://)?(?P<host>[a-z0-9_-]+)(?P<rest>[/?#].*)?", re.IGNORECASE | re.DOTALL)
_USER_LINK = re.compile(r"tg:(?://)?user\?(?:.*&)?id=(?P<id>\d+)", re.IGNORECASE)
_DEFAULT_PORTS = {"http": 80, "https": 443}


def linked_user_id(url: str) -> int | None:
    """Answer the user that a ``tg://user?id=5`` link mentions."""
    found = _USER_LINK.match(url)
    return int(found["id"]) if found else None


def checked_link(url: str) -> str | None:
    """Answer ``url`` as Telegram writes it back, or ``None`` where Telegram drops the link (rule R25)."""
    tg_link = _TG_LINK.fullmatch(url)
    if tg_link:
        rest = (tg_link["rest"] or "").removeprefix("/")
        return f"{tg_link['scheme'].lower()}://{tg_link['host'].lower()}{rest}"
    protocol, separator, rest = url.partition("://")
    if not separator:
        protocol, rest = "http", url
    protocol = protocol.lower()
    if protocol not in _DEFAULT_PORTS:
        return None
    end_of_authority = min((at for at in map(rest.find, "/?#") if at >= 0), default=len(rest))
    authority, query = rest[:end_of_authority], rest[end_of_authority:]
    user_info, at_sign, host_port = authority.rpartition("@")
    found = _HOST_PORT.fullmatch(host_port)
    if not found or not _is_public_host(found["host"]):
        return None
    port = int(found["port"] or _DEFAULT_PORTS[protocol])
    if not 0 < port < 65536:
        return None
    shown_port = "" if port == _DEFAULT_PORTS[protocol] else f":{port}"
    if not query.startswith("/"):
        query = "/" + query
    return f"{protocol}://{user_info}{at_sign}{found['host'].lower()}{shown_port}{_escaped(query)}"


def _is_public_host(host: str) -> bool:
    return host.startswith("[") or ("." in host and host.strip(".") == host)


def _escaped(query: str) -> str:
    return "".join(f"%{ord(character):02X}" if character <= " " else character for character in query)
