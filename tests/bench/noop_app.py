"""What ingest is compared with: an ordinary Litestar handler that decodes the event and does nothing.

``python -m tests.bench.noop_app PORT``
"""

from __future__ import annotations

import sys

import msgspec
import uvicorn
from litestar import Litestar, post
from tests.bench.load import HOST


class CallEvent(msgspec.Struct, rename="pascal"):
    token: str
    unique_id: str
    phone: str = ""
    extensions: list[str] = []
    call_type: int | None = None
    call_status: str = ""
    trunk: str = ""
    channel: str = ""
    bridge_uniqueid: str = ""


KINDS = ["start", "dial", "bridge", "hangup", "bridge_create", "bridge_leave", "bridge_destroy", "new_callerid"]


@post([f"/{kind}" for kind in KINDS], status_code=200)
async def take(data: CallEvent) -> dict[str, bool]:
    return {"ok": True}


if __name__ == "__main__":
    app = Litestar([take], openapi_config=None, logging_config=None)
    uvicorn.run(app, host=HOST, port=int(sys.argv[1]), loop="uvloop", http="httptools", log_config=None, access_log=False)
