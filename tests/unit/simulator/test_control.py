"""Faults and the control API, over a real server on loopback."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import msgspec
import pytest

from callgram_simulator.server import Simulator
from callgram_simulator.settings import AnswerSettings, FloodSettings, SimulatorSettings

TOKEN = "42:top-secret"


class Client:
    def __init__(self, simulator: Simulator, session: aiohttp.ClientSession) -> None:
        self.simulator, self.session = simulator, session

    async def ask(self, path: str, order: Any = None, **options: Any) -> tuple[int, Any]:
        method = "GET" if order is None else "POST"
        async with self.session.request(method, self.simulator.url + path, json=order, **options) as response:
            return response.status, await response.json()

    async def send(self, text: str = "hello", chat_id: int = 7) -> tuple[int, Any]:
        return await self.ask(f"/bot{TOKEN}/sendMessage", {"chat_id": chat_id, "text": text})


def played(play: Callable[[Client], Awaitable[None]], settings: SimulatorSettings | None = None) -> None:
    async def run() -> None:
        quiet = SimulatorSettings(port=0, flood=FloodSettings(enabled=False))
        async with Simulator(settings or quiet) as simulator, aiohttp.ClientSession() as session:
            await play(Client(simulator, session))

    asyncio.run(run())


@pytest.mark.parametrize(
    ("fault", "seen", "n_executed"),
    [
        pytest.param({"action": "hold", "seconds": 0.05}, 200, 1, id="held, then executed"),
        pytest.param({"action": "drop_before"}, aiohttp.ServerDisconnectedError, 0, id="dropped before"),
        pytest.param({"action": "execute_then_drop"}, aiohttp.ServerDisconnectedError, 1, id="executed, then dropped"),
        pytest.param({"action": "502"}, aiohttp.ContentTypeError, 0, id="502"),
        pytest.param({"action": "502", "executed": True}, aiohttp.ContentTypeError, 1, id="502 but executed"),
        pytest.param({"action": "truncated"}, aiohttp.ClientPayloadError, 1, id="truncated"),
        pytest.param({"action": "500_after"}, 500, 1, id="500 after"),
        pytest.param({"action": "429_5"}, 429, 0, id="429"),
        pytest.param({"action": "429_5", "executed": True}, 429, 1, id="429 but executed"),
    ],
)
def test_a_fault_is_seen_and_the_truth_log_knows_better(
    fault: dict[str, Any], seen: int | type[Exception], n_executed: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def play(client: Client) -> None:
        status, _ = await client.ask("/sim/faults", {"method": "SendMessage", "bot_id": 42, "chat_id": 7, **fault})
        assert status == 200
        assert (await client.send(chat_id=8))[0] == 200
        if isinstance(seen, int):
            assert (await client.send())[0] == seen
        else:
            with pytest.raises(seen):
                await client.send()
        _, truth = await client.ask("/sim/truth?since=1")
        assert [entry["chat_id"] for entry in truth["entries"]] == [7] * n_executed
        assert (await client.send())[0] == 200

    with caplog.at_level(logging.ERROR):
        played(play)
    assert caplog.records == []


def test_truth_tells_sends_edits_and_deletes_in_order() -> None:
    async def play(client: Client) -> None:
        sent = (await client.send("one"))[1]["result"]["message_id"]
        target = {"chat_id": 7, "message_id": sent}
        await client.ask(f"/bot{TOKEN}/editMessageText", {**target, "text": "<b>two</b>", "parse_mode": "HTML"})
        await client.ask(f"/bot{TOKEN}/deleteMessage", target)
        _, truth = await client.ask("/sim/truth?since=0")
        assert [(e["seq"], e["kind"], e.get("text")) for e in truth["entries"]] == [
            (1, "send", "one"),
            (2, "edit", "two"),
            (3, "delete", None),
        ]
        assert truth["entries"][1]["entities"] == [{"type": "bold", "offset": 0, "length": 3}]
        assert (await client.ask("/sim/truth?since=3"))[1] == {"last": 3, "entries": []}

    played(play)


def test_the_control_api_shows_no_token() -> None:
    async def play(client: Client) -> None:
        await client.ask("/sim/bots", {"token": TOKEN, "first_name": "Bell"})
        await client.send()
        shown = [
            await client.ask(path)
            for path in ("/sim/truth", "/sim/chats", "/sim/chats/42/7", "/sim/faults", "/sim/clock")
        ]
        shown.append(await client.ask("/sim/bots", {"bot_id": 42}))
        assert all(status == 200 for status, _ in shown)
        assert "top-secret" not in str(shown)
        assert shown[1][1][0]["bot_name"] == "Bell"
        assert "top-secret" not in repr(client.simulator.state.bots)
        assert (await client.ask("/bot42:another/getMe"))[0] == 401

    played(play)


def test_another_sites_page_may_not_steer() -> None:
    async def play(client: Client) -> None:
        origin = {"Origin": "https://evil.example"}
        assert (await client.ask("/sim/reset", {}, headers=origin))[0] == 403

    played(play)


def test_an_order_that_is_not_understood_says_why() -> None:
    async def play(client: Client) -> None:
        status, answer = await client.ask("/sim/faults", {"action": "explode"})
        assert status == 400
        assert "/sim/faults" in answer["description"]
        assert "explode" in answer["description"]
        assert (await client.ask("/sim/clock", {"minutes": 5}))[0] == 400
        assert (await client.ask("/sim/nothing", {}))[0] == 404

    played(play)


def test_reset_forgets_everything_but_the_settings() -> None:
    async def play(client: Client) -> None:
        await client.ask("/sim/settings", {"auto_chats": False})
        await client.ask("/sim/chats", {"bot_id": 42, "chat_id": 7, "title": "Sales"})
        await client.send()
        await client.ask("/sim/reset", {})
        assert (await client.ask("/sim/chats"))[1] == []
        assert (await client.ask("/sim/truth"))[1] == {"last": 0, "entries": []}
        assert (await client.send())[1]["description"] == "Bad Request: chat not found"

    played(play)


def test_a_stopping_simulator_lets_long_polls_go() -> None:
    async def run() -> None:
        async with aiohttp.ClientSession() as session:
            async with Simulator(SimulatorSettings(port=0)) as simulator:
                client = Client(simulator, session)
                poll = asyncio.create_task(client.ask(f"/bot{TOKEN}/getUpdates?timeout=50"))
                bot = simulator.state.bot(42)
                async with asyncio.timeout(5):
                    while not bot.n_active:
                        await asyncio.sleep(0)
            assert await poll == (200, {"ok": True, "result": []})

    asyncio.run(run())


@pytest.mark.parametrize("settings", [SimulatorSettings, FloodSettings, AnswerSettings])
def test_settings_refuse_unknown_keys(settings: type[msgspec.Struct]) -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field"):
        msgspec.convert({"colour": 1}, type=settings)
