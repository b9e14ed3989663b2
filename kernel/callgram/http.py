"""The HTTP face: the eight event routes, health, metrics, the OpenAPI document, and the routes of plugins.

Litestar's only place. The event routes are ASGI inside the Litestar app: half of a handler's cost would be machinery that
they don't need (measured: 27 000 against 12 500 requests/s doing nothing).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import msgspec
from litestar import Litestar, Response, asgi, get
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import (
    OpenAPIMediaType,
    OpenAPIResponse,
    OpenAPIType,
    Operation,
    PathItem,
    RequestBody,
    Schema,
)
from litestar.types import Receive, Scope, Send
from prometheus_client import CONTENT_TYPE_LATEST

from callgram import __version__
from callgram.errors import IngestError
from callgram.events import POSTED, Kind
from callgram.ingest import HEADERS, MAX_BODY, Ingest
from callgram.metrics import EVENTS_REFUSED, exposition

Report = Callable[[], Awaitable[tuple[bool, dict[str, Any]]]]
_JSON = (b"content-type", b"application/json")
_STORED = b'{"ok":true}'
_REPEATED = b'{"ok":true,"repeated":true}'
_LENGTH = b"content-length"
_READ = HEADERS | {_LENGTH}


def make_app(ingest: Ingest | None, ready: Report, routes: list[Any]) -> Litestar:
    """The app. ``ingest`` ``None``: this process has another role and takes no events. ``ready`` says whether all is well."""

    @get("/health/live", tags=["health"], sync_to_thread=False)
    def live() -> dict[str, str]:
        """The process runs."""
        return {"status": "live"}

    @get("/health/ready", tags=["health"])
    async def is_ready() -> Response[dict[str, Any]]:
        """The store answers, every plugin of plugins.toml is loaded, the bots are owned by some node. 503 when not."""
        well, report = await ready()
        return Response(report, status_code=200 if well else 503)

    @get("/metrics", tags=["health"], sync_to_thread=False, media_type="text/plain")
    def metrics() -> Response[bytes]:
        """Prometheus metrics."""
        return Response(exposition(), headers={"content-type": CONTENT_TYPE_LATEST})

    events = [_event_route(kind, ingest) for kind in POSTED] if ingest else []
    config = OpenAPIConfig(
        title="callgram", version=__version__, path="/schema", render_plugins=[SwaggerRenderPlugin()]
    )
    app = Litestar(
        [*events, live, is_ready, metrics, *routes],
        openapi_config=config,
        logging_config=None,
        exception_handlers={NotFoundException: _nowhere},
    )
    if ingest:
        paths = app.openapi_schema.paths
        if paths is not None:
            paths.update({f"/{kind}": _documented(kind) for kind in POSTED})
    return app


def _nowhere(_request: Any, _error: Exception) -> Response[dict[str, str]]:
    """A path that nobody has. Of a process that takes no events, theirs are such."""
    return Response({"error": "this process has no such route; /schema shows those that it has"}, status_code=404)


def _event_route(kind: Kind, ingest: Ingest) -> Any:
    @asgi(f"/{kind}", copy_scope=False)
    async def handle(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") != "POST":
            await _answer(send, 405, b'{"error":"use POST"}', extra=[(b"allow", b"POST")])
            return
        try:
            headers = _headers(scope)
            body = await _body(headers, receive)
            if body is None:
                return  # the sender hung up; nobody to answer
            client = scope.get("client")
            new = await ingest.accept(kind, body, headers, client[0] if client else "")
        except IngestError as error:
            EVENTS_REFUSED.labels(str(error.status)).inc()
            told = {"error": str(error)} | ({"field": error.field} if error.field else {})
            extra = [(b"retry-after", str(error.retry_after_s).encode())] if error.retry_after_s else None
            await _answer(send, error.status, msgspec.json.encode(told), extra)
            return
        await _answer(send, 200, _STORED if new else _REPEATED)

    return handle


def _headers(scope: Scope) -> dict[bytes, bytes]:
    """The first of each header that counts; curl in a dialplan repeats headers, and that is fine."""
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        if name in _READ and value:
            headers.setdefault(name, value)
    return headers


async def _body(headers: Mapping[bytes, bytes], receive: Receive) -> bytes | None:
    """The request's body, ``None`` when the sender went away; 413 past the limit, read or announced."""
    announced = headers.get(_LENGTH, b"")
    if announced.isdigit() and int(announced) > MAX_BODY:
        raise IngestError(413, f"the body has more than {MAX_BODY} bytes; a call event has a few hundred")
    parts: list[bytes] = []
    size = 0
    while True:
        message: Any = await receive()
        if message["type"] != "http.request":
            return None
        part = message.get("body", b"")
        size += len(part)
        if size > MAX_BODY:
            raise IngestError(413, f"the body has more than {MAX_BODY} bytes; a call event has a few hundred")
        parts.append(part)
        if not message.get("more_body"):
            return parts[0] if len(parts) == 1 else b"".join(parts)


async def _answer(send: Send, status: int, body: bytes, extra: list[tuple[bytes, bytes]] | None = None) -> None:
    headers = [_JSON, (b"content-length", str(len(body)).encode()), *(extra or ())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def _documented(kind: Kind) -> PathItem:
    text = Schema(type=OpenAPIType.STRING)
    body = Schema(
        type=OpenAPIType.OBJECT,
        required=["Token"],
        properties={
            "Token": text,
            "UniqueId": text,
            "Linkedid": text,
            "CallType": Schema(type=OpenAPIType.INTEGER, enum=[0, 1, 2], description="incoming, outgoing, internal"),
            "Phone": text,
            "Extensions": Schema(type=OpenAPIType.ARRAY, items=text),
            "Trunk": text,
            "CallStatus": text,
            "BridgeUniqueid": text,
            "Channel": text,
        },
        description="A call event; docs/events.md lists the fields of each kind. Unknown fields are kept.",
    )
    answers = {
        "200": "Stored, or recognised as a repetition of what is stored",
        "400": "Not JSON",
        "403": "Unknown Token, or not one for this address; or a signature that is missing or wrong. Nothing is stored",
        "413": "More than 64 KiB",
        "422": "Not an object, or a field that cannot be read; the field is named",
        "429": "Too many different wrong Tokens from this address; Retry-After says how long",
        "503": "Not stored: the database does not answer",
    }
    return PathItem(
        post=Operation(
            tags=["events"],
            summary=f"A {kind} event of a call",
            operation_id=f"post_{kind}",
            request_body=RequestBody(required=True, content={"application/json": OpenAPIMediaType(schema=body)}),
            responses={status: OpenAPIResponse(description=text) for status, text in answers.items()},
        )
    )
