"""One callgram with the details plugin, and a call of every recorded shape, for all tests here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from callgram.context import Chat
from callgram.reading import CallFilter
from callgram_details.accounts import new_operator, new_token
from callgram_details.keys import PLUGIN, Vault
from callgram_postgres.store import PostgresStore, connect

from ...unit.calls.traffic import scenarios, sources
from ..harness import Background, Office, Program, Telegram, new_office, plugins_toml

SCENARIOS = [source.name for source in scenarios()]
RECORDED = {source.name: source.posts for source in sources() if not source.name.endswith(".agent")}
"""Of the recordings that were told by two kinds of hosts, one."""
PASSWORD = "correct horse battery"
HOSTILE = "<img src=x onerror=alert(1)>'\"</script><script>alert(2)</script>"
BASE = "https://calls.example.com"
PLUGINS = plugins_toml(
    *("postgres", "start", "dial", "bridge", "hangup", "internal", "details", "recordings"),
    start="{ hold_s = 0.05 }",
    details=f'{{ base_url = "{BASE}" }}',
    recordings=f'{{ base_url = "{BASE}", allow_private = true }}',
    enterprises="""
[enterprise.7002]
settings = { recordings = { allow_private = false } }
[enterprise.7003]
settings = { recordings = { max_mb = 1 } }
""",
)
CLIENT = {"CallType": 0, "Phone": "375296254070", "Trunk": "0001363"}


class Shape(msgspec.Struct, frozen=True):
    """A recorded call as it was played: whose it is, and by which ids it is found."""

    name: str
    enterprise: str
    unique_id: str
    channels: tuple[str, ...]
    n_records: int


class Site:
    """The running program and its store. ``shapes`` are the scenarios, ``recorded`` every call that has a golden transcript,
    ``live`` is one with a hostile name that goes on, ``long`` has more events than one page carries whole."""

    shapes: dict[str, Shape]
    recorded: dict[str, Shape]
    live: Shape
    long: Shape

    def __init__(self, program: Program, run: Any) -> None:
        self.program, self.run = program, run
        """``run(coroutine)``: where the store is."""
        names = [*RECORDED, "live"]
        self._offices = {name: new_office(f"{7000 + place}") for place, name in enumerate(names, 1)}
        self.enterprises = {office.number: office for office in self._offices.values()}
        self.bearers: dict[str, str] = {}
        self.store: PostgresStore = run(connect(program.dsn))
        self.vault = Vault()
        run(self.vault.open(self.store))
        run(self._let_in())

    @property
    def url(self) -> str:
        return self.program.url

    def close(self) -> None:
        self.run(self.vault.close())
        self.run(self.store.close())

    async def _let_in(self) -> None:
        first, second = (self._offices[name].number for name in SCENARIOS[:2])
        for login, enterprises, masked in (("anna", None, False), ("boris", (first,), False), ("vera", (second,), True)):
            await self.store.keep(PLUGIN, *new_operator(login, PASSWORD, enterprises, masked=masked))
        for number in self.enterprises:
            self.bearers[number], key, value = new_token(number, masked=False)
            await self.store.keep(PLUGIN, key, value)

    async def _name_chats(self) -> None:
        for number, office in self.enterprises.items():
            for chat, name in zip(office.chats, (f"Марина {HOSTILE}", "Отдел продаж"), strict=True):
                await self.store.add_subscriber(number, Chat(id=chat, name=name))

    def play(self) -> None:
        """Every recording side by side, each for an enterprise of its own, slowly enough for every stage to be shown."""
        self.program.add(list(self.enterprises.values()))
        self.run(self._name_chats())
        self.program.play([(self._offices[name], posts) for name, posts in RECORDED.items()], speed=10.0)
        self.program.settled(*self.enterprises.values(), deadline_s=60)
        self.recorded = {name: self._shape(name, self._offices[name]) for name in RECORDED}
        self.shapes = {name: self.recorded[name] for name in SCENARIOS}
        self.live, self.long = self._play_live(), self._play_long()

    def _play_live(self) -> Shape:
        told, office = {"UniqueId": "1795000000.1", **CLIENT}, self._offices["live"]
        self.program.tell(office, "start", **told)
        self.program.tell(office, "new_callerid", **told, CallerIDName=HOSTILE, Channel=f"SIP/{HOSTILE}-1")
        self.program.settled(office)
        return self._shape("live", office)

    def _play_long(self) -> Shape:
        """140 events, of the client of the live one."""
        told, office = {"UniqueId": "1795000001.1", **CLIENT}, self._offices["live"]
        self.program.tell(office, "start", **told)
        self.program.tell(office, "dial", **told, Extensions=["150", "151"])
        for n in range(136):
            leg = {"UniqueId": f"1795000001.{2 + n % 8}", "Linkedid": told["UniqueId"], "Channel": f"SIP/15{n % 8}-1"}
            kind = "bridge" if n // 8 % 2 == 0 else "bridge_leave"
            self.program.tell(office, kind, **leg, BridgeUniqueid=f"b{n // 16}")
        self.program.tell(office, "hangup", **told, Extensions=["150"], CallStatus="2")
        self.program.settled(office)
        return self._shape("long", office)

    def _shape(self, name: str, office: Office) -> Shape:
        """The call with the most records: a recording may tell a small one beside it."""

        async def files() -> list[Any]:
            listed = (await self.store.list_calls(CallFilter(enterprises=(office.number,)))).calls
            return [await self.store.call_file(office.number, one.facts.id) for one in listed]

        file = max(self.run(files()), key=lambda file: len(file.records))
        return Shape(name, office.number, file.channels[0], file.channels, len(file.records))

    def link(self, shape: Shape, days: float = 14) -> str:
        """``s`` of the link that a message's button has."""
        ((enterprise, call),) = self.run(self.store.find_calls([shape.enterprise], shape.unique_id))
        return self.vault.sign_link(enterprise, call, datetime.now(UTC) + timedelta(days=days))

    def file(self, shape: Shape) -> Any:
        ((enterprise, call),) = self.run(self.store.find_calls([shape.enterprise], shape.unique_id))
        return self.run(self.store.call_file(enterprise, call))

    def page(self, shape: Shape, unique_id: str = "") -> str:
        return f"{self.url}/call/details/{unique_id or shape.unique_id}?s={self.link(shape)}"

    def tell(self, shape: Shape, kind: str, **fields: Any) -> None:
        self.program.tell(self.enterprises[shape.enterprise], kind, **fields)


@pytest.fixture(scope="package")
def site(telegram: Telegram, background: Background, new_dsn: Callable[[], str]) -> Iterator[Site]:
    program = Program(telegram, background, PLUGINS, CALLGRAM_DATABASE_URL=new_dsn())
    try:
        site = Site(program, background.run)
        program.start()
        site.play()
        yield site
        site.close()
    finally:
        program.close()
