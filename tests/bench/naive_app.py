"""What the whole service is compared with: the FastAPI and aiogram handler that one would write first.

It stores nothing, and sends to the chats one after the other before it answers. ``python -m tests.bench.naive_app PORT
API_URL``
"""

from __future__ import annotations

import sys

import uvicorn
from aiogram import Bot
from aiogram.client.session.aiohttp import AiohttpSession
from aiogram.client.telegram import TelegramAPIServer
from fastapi import FastAPI
from pydantic import BaseModel
from tests.bench.load import HOST
from tests.bench.world import ENTERPRISES

app = FastAPI()
session = AiohttpSession(api=TelegramAPIServer.from_base(sys.argv[2]))
bots = {one.token: Bot(one.bot_token, session=session) for one in ENTERPRISES}
chats = {one.token: one.chats for one in ENTERPRISES}


class CallEvent(BaseModel):
    Token: str
    UniqueId: str
    Phone: str = ""
    Extensions: list[str] = []
    CallType: int
    CallStatus: str = ""
    Trunk: str = ""


@app.post("/dial")
@app.post("/hangup")
async def take(event: CallEvent) -> dict[str, bool]:
    text = f"☎️ <b>{event.Phone}</b> ➡️ {', '.join(event.Extensions)}\n📡{event.Trunk}"
    for chat in chats[event.Token]:
        await bots[event.Token].send_message(chat, text, parse_mode="HTML")
    return {"ok": True}


if __name__ == "__main__":
    uvicorn.run(app, host=HOST, port=int(sys.argv[1]), log_level="warning", access_log=False)
