"""The world in which the card protocol is tried: a Telegram that goes wrong, nodes that die, a clock that is told.

Nodes are callgram's own Sender and the commit of its Planner. No event loop: what they do is a coroutine that stops at each
request, pause and commit, and goes on when the world says so. That makes every interleaving of planners, senders, Telegram
and time reachable, and thousands of steps a second possible.
"""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Callable, Coroutine, Generator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import msgspec

from callgram import Call, Chat, Context, Message, Stage, hookimpl
from callgram.calls.facts import Facts
from callgram.cards import Urgency
from callgram.context import Directory, Enterprise, Mode, Secret
from callgram.errors import OvertakenError, StoreError
from callgram.events import Kind as EventKind
from callgram.in_hand import STALE_S
from callgram.loader import Plugins, adopt
from callgram.planner import Hands, NoHands, Planner
from callgram.sender import ROUNDS, Sender
from callgram.settings import CallSettings, PluginEntry, PluginsFile
from callgram.store import CallRow, CardRow, Claim, NewEvent, Planned
from callgram.telegram.limits import Limits, LimitSettings
from callgram.telegram.outcome import Kind, Outcome, Reason
from callgram.testing.memory import MemoryStore
from callgram.trace import Op

BEGAN = datetime(2026, 3, 1, 9, 0, tzinfo=UTC)
NUMBER, BOT = "0367", 700
CHATS = (41, 42, -1_001_000_000_007)
"""Two persons, who share the bot's message counter, and a supergroup, which has its own."""
LIMITS = LimitSettings(private_per_s=1.0, private_burst=3, group_per_min=60, group_burst=3, bot_per_s=5)
CUT = timedelta(seconds=5)  # idle_in_transaction_session_timeout
TOO_OLD = timedelta(hours=48)
HELD = timedelta(seconds=8)
OK = Outcome(kind=Kind.OK, reason=Reason.OK)
SERVER = Outcome(kind=Kind.SERVER, reason=Reason.SERVER)
LOST = Outcome(kind=Kind.AMBIGUOUS, reason=Reason.AMBIGUOUS)
NOT_SENT = Outcome(kind=Kind.NOT_SENT, reason=Reason.NOT_SENT)
GONE = Outcome(kind=Kind.REJECTED, reason=Reason.GONE)
DONE = Outcome(kind=Kind.OK, reason=Reason.DONE_ALREADY)
DEAD = Outcome(kind=Kind.REJECTED, reason=Reason.CHAT_DEAD, description="Forbidden: bot was blocked by the user")


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that never suspends, as all of the memory store's are."""
    try:
        work.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError("it waits for something")


@dataclass(frozen=True)
class Request:
    method: str
    chat: int
    payload: dict[str, Any]
    until: datetime
    """When Telegram has done it at the latest: it holds a request up to 8 s, and forgets none."""


@dataclass(frozen=True)
class Pause:
    until: datetime


@dataclass(frozen=True)
class Commit:
    until: datetime
    """When the database cuts the planner off."""


@types.coroutine
def _yielded(what: Request | Pause | Commit) -> Generator[Any, Any, Any]:
    return (yield what)


class _Draw:
    """The only plugin: a message says whose state it shows, and how new that is."""

    @hookimpl
    async def render_message(self, ctx: Context, call: Call, stage: Stage, chat: Chat) -> Message | None:
        return Message(f"{call.id} {stage} {call.version}")


def read(text: str) -> tuple[int, int]:
    """The call and the version that a message shows."""
    call, _, version = text.split()
    return int(call), int(version)


@dataclass
class Shown:
    text: str
    at: datetime
    ours: bool = True


class Telegram:
    """What is in the chats. ``execute`` does what the Bot API would, now; whether anybody hears of it is the world's."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.chats: dict[int, dict[int, Shown]] = {chat: {} for chat in CHATS}
        self.newest: Counter[tuple[int, int]] = Counter()
        self.blocked: set[int] = set()
        self._last = dict.fromkeys(CHATS, 0) | {0: 0}

    def new_id(self, chat: int) -> int:
        counter = 0 if chat > 0 else chat
        self._last[counter] += 1
        return self._last[counter]

    def execute(self, request: Request) -> Outcome:
        """Requests of a chat are a queue: what is held goes first."""
        self._world.do_late(lambda held: held.chat == request.chat)
        return self._execute(request)

    def _execute(self, request: Request) -> Outcome:
        shown, now = self.chats[request.chat], self._world.now
        match request.method:
            case "sendMessage":
                if request.chat in self.blocked:
                    return DEAD
                message_id = self.new_id(request.chat)
                shown[message_id] = Shown(request.payload["text"], now)
                self._world.sent.append((request.chat, message_id, read(request.payload["text"])[0]))
                self._saw(request)
                return Outcome(kind=Kind.OK, reason=Reason.OK, message_id=message_id)
            case "editMessageText" | "editMessageReplyMarkup":
                message = shown.get(request.payload["message_id"])
                if message is None:
                    return GONE
                if not message.ours:
                    return Outcome(kind=Kind.REJECTED, reason=Reason.NOT_EDITABLE)
                text = request.payload.get("text", message.text)
                if text == message.text:
                    return DONE
                self._world.check_edit(message.text, text)
                message.text = text
                self._saw(request)
                return OK
        wanted = request.payload.get("message_ids") or [request.payload["message_id"]]
        if any(one in shown and now - shown[one].at > TOO_OLD for one in wanted):
            return Outcome(kind=Kind.REJECTED, reason=Reason.TOO_OLD)
        there = {one: shown.pop(one) for one in wanted if one in shown}
        for message_id, message in there.items():
            self._world.check_deleted(request.chat, message_id, message.text)
        together = request.method == "deleteMessages"
        return OK if there or together else Outcome(kind=Kind.OK, reason=Reason.GONE)

    def _saw(self, request: Request) -> None:
        text = request.payload["text"]
        if len(text.split()) == 3:
            call, version = read(text)
            self.newest[request.chat, call] = max(self.newest[request.chat, call], version)


@dataclass(eq=False)
class Job:
    """Something under way: the cards of a chat that a sender has in hand, or a planner's batch. ``waiting`` is what it wants,
    ``None`` before it begins; ``answer`` came while its node was frozen."""

    work: Coroutine[Any, Any, Any]
    waiting: Request | Pause | Commit | None = None
    answer: Outcome | None = None

    def add_done_callback(self, callback: Any) -> None:
        """It stands for a task. Nobody asks which are left."""


class Process(MemoryStore):
    """The store as one process sees it. ``fault``: the next exchange fails before it is committed, or its answer is lost."""

    fault = ""

    async def exchange(self, *given: Any, **named: Any) -> list[Claim]:
        fault, self.fault = self.fault, ""
        if fault == "before":
            raise StoreError
        claims = await super().exchange(*given, **named)
        if fault == "after":
            raise StoreError
        return claims


class Batch:
    """A planner's batch that waits until the world says how its commit ends. ``told`` is called when it is written."""

    def __init__(self, db: Any, batch: Any, told: Callable[[], None], until: datetime) -> None:
        self._db, self._batch, self._told, self._until = db, batch, told, until

    async def commit(self, planned: Mapping[str, Planned]) -> list[Claim]:
        how = await _yielded(Commit(self._until))
        if how == "before":
            raise OvertakenError
        claims: list[Claim] = await self._batch.commit(planned)
        self._told()
        if how == "after":
            raise StoreError
        if how == "unheard":  # its process is frozen, or about to die; the lock is gone
            self._db.planning.discard(NUMBER)
            await _yielded(Pause(self._until))
        return claims


class Node:
    """A process: callgram's own sender, and a planner that hands over to it."""

    def __init__(self, world: World, name: str) -> None:
        self._world, self.name = world, name
        self.store = Process(lambda: world.now)
        self.store._db = world.store._db
        self.tasks: list[Job] = []
        self.planning: Job | None = None
        self._running: Job | None = None
        self.frozen = self.belated = False
        self.unsure: set[tuple[int, str]] = set()
        self.sender = Sender(
            self.store,
            world.plugins,
            lambda: world.directory,
            session=self,
            limits=Limits(LIMITS),
            clock=lambda: world.now,
            node=name,
            done=lambda: None,
            monotonic=world.seconds,
            start=self._start,
        )
        self.sender.ports = msgspec.structs.replace(self.sender.ports, chance=lambda: 0.5)
        self.round = self.sender._rounds[BOT % ROUNDS]
        self.planner = world.new_planner(self.sender)

    def _start(self, work: Coroutine[Any, Any, None]) -> Any:
        self.tasks.append(Job(work))
        return self.tasks[-1]

    async def call(self, token: Secret, method: str, payload: dict[str, Any], **how: Any) -> Outcome:
        request = Request(method, payload["chat_id"], payload, self._world.now + HELD)
        self._world.check_issued(request, self.name, belated=self.belated)
        beside = [job for job in self.asking() if job is not self._running and job.waiting.chat == request.chat]  # type: ignore[union-attr]
        assert not beside, f"two requests at once in chat {request.chat}"
        if method == "sendMessage":
            self._check_repeated(request)
        outcome: Outcome = await _yielded(request)
        if outcome.kind is Kind.AMBIGUOUS:
            self.unsure.add((request.chat, payload["text"].rpartition(" ")[0]))
        return outcome

    def _check_repeated(self, request: Request) -> None:
        """A passing stage that may be there is not sent again; the next one will tell."""
        call, stage, _ = request.payload["text"].split()
        again = (request.chat, f"{call} {stage}") in self.unsure
        assert stage == Stage.HANGUP or not again, f"{call} {stage} is sent again, but may be there"
        self.unsure -= {(request.chat, f"{call} {other}") for other in Stage}

    @property
    def busy(self) -> bool:
        return bool(self.planning or self.round._jobs or self.round._finished)

    def lease(self) -> None:
        had = self.sender.owned
        run(self.sender.renew())
        self._world.repeated |= bool(had - self.sender.owned and self.busy)

    def turn(self, fault: str = "", per_chat: int = 1) -> None:
        """``fault``: of the transaction, see Process. ``per_chat``: how many cards of a chat are taken at most."""
        self._world.repeated |= fault == "after"
        self.store.fault = fault
        self.round._per_chat = lambda: per_chat  # type: ignore[method-assign] # else it follows from how fast things are
        with suppress(StoreError):
            run(self.round.turn())
        self._begin()

    def plan(self, call: int, stage: Stage, absorbed: int = 0) -> None:
        """Begin to plan; :meth:`commit` ends it."""
        self.planning = Job(self._world.planning(self.planner, call, stage, absorbed))
        self._go_on_planning()

    def commit(self, how: str = "") -> None:
        """The commit is well, fails "before" it is done, or its answer is lost "after" it or on the way to a process that
        does not listen ("unheard")."""
        if self.planning and isinstance(self.planning.waiting, Commit):
            self._go_on_planning("unheard" if self.frozen and not how else how)

    def _go_on_planning(self, value: Any = None) -> None:
        assert self.planning is not None
        try:
            self.planning.waiting = self.planning.work.send(value)
        except (StopIteration, StoreError):
            self.planning = None
        self._begin()

    def _begin(self) -> None:
        for job in list(self.tasks):
            if job.waiting is None:
                self.go_on(job)

    def go_on(self, job: Job, value: Any = None) -> None:
        self._running = job
        try:
            job.waiting = job.work.send(value)
        except StopIteration:
            self.tasks.remove(job)
        except AssertionError:
            self.tasks.remove(job)
            raise

    def thaw(self) -> None:
        self.frozen = False
        self._world.repeated |= bool(self.sender.owned and not self.sender.leases())
        self.resume()

    def resume(self) -> None:
        """Let go on what has paused long enough, and what was answered while the node was frozen."""
        if self.planning and isinstance(self.planning.waiting, Pause):
            self.belated = True
            self._go_on_planning()
            self.belated = False
        for job in list(self.tasks):
            if job.answer is not None:
                answer, job.answer = job.answer, None
                self.go_on(job, answer)

    def asking(self) -> list[Job]:
        return [job for job in self.tasks if isinstance(job.waiting, Request) and job.answer is None]

    def hear(self, job: Job, outcome: Outcome) -> None:
        job.answer = outcome
        if not self.frozen:
            self.resume()

    def die(self) -> None:
        for job in (*self.tasks, *([self.planning] if self.planning else ())):
            job.work.close()


@dataclass
class Told:
    """What the planner last said about a call."""

    version: int
    stage: Stage
    into: int = 0


@dataclass
class World:
    """Everything, and what must hold in it. Violations are AssertionErrors."""

    policy: str = "resend"
    mode: Mode = "replace"
    now: datetime = BEGAN
    calls: dict[int, Told] = field(default_factory=dict)
    late: list[Request] = field(default_factory=list)
    repeated: bool = False
    """Some time a report was handed in twice, or came when another node had the card: the trace may have things twice."""
    old: bool = False
    """Some time 48 hours passed: what cannot be deleted stays, with its last words."""

    def __post_init__(self) -> None:
        file = PluginsFile(
            api=1, plugin=(PluginEntry(name="draw"),), defaults=CallSettings(ambiguous=self.policy)  # type: ignore[arg-type]
        )
        self.plugins = Plugins(file, [adopt("draw", _Draw, {})], lambda outcome: None)
        enterprise = Enterprise(number=NUMBER, token=Secret("t"), bot_token=Secret("700:x"))
        chats = tuple(Chat(id=chat) for chat in CHATS)
        self.directory = Directory(mark="1", enterprises={NUMBER: enterprise}, chats={NUMBER: chats})
        self.store = MemoryStore(lambda: self.now)
        self.telegram = Telegram(self)
        self.issued: list[tuple[float, int]] = []
        self.outdated: dict[tuple[int, int], float] = {}
        """Since when a call is not at a version any more."""
        self.sent: list[tuple[int, int, int]] = []
        """Executed sends: chat, message, call."""
        self.answered: list[tuple[str, int, int]] = []
        """Sends whose answer was heard: node, chat, message."""
        self._names = count(1)
        self._planner = self.new_planner(NoHands())
        self.nodes = [self.new_node(), self.new_node()]

    def seconds(self) -> float:
        return (self.now - BEGAN).total_seconds() + 1000.0

    def new_node(self) -> Node:
        return Node(self, f"node-{next(self._names)}")

    def new_planner(self, hands: Hands) -> Planner:
        return Planner(
            self.store,
            self.plugins,
            lambda: self.directory,
            lambda: self.now,
            woken=lambda cards: None,
            hands=lambda: hands,
        )

    def planners(self) -> list[Node]:
        """Who plans now: one at most, an enterprise's queue is locked."""
        return [node for node in self.nodes if node.planning]

    def close(self) -> None:
        for node in self.nodes:
            node.die()

    def root(self, call: int) -> int:
        while into := self.calls[call].into:
            call = into
        return call

    # What happens

    def plan(self, call: int, stage: Stage, absorbed: int = 0) -> int:
        """A process that does not send commits a new state of ``call`` (0: a new one, whose id is answered) for every chat."""
        for node in self.planners():
            node.commit()
        work = self.planning(self._planner, call, stage, absorbed)
        work.send(None)
        try:
            work.send("")
        except StopIteration as done:
            planned: int = done.value
            return planned
        raise AssertionError("it waits for something else")

    async def planning(self, planner: Planner, call: int, stage: Stage, absorbed: int) -> int:
        """What ``planner`` does with an event, but for the folding."""
        body = f'{{"Token":"t","UniqueId":"{next(self._names)}.1","Phone":"+375296254070"}}'.encode()
        event = NewEvent(
            enterprise=NUMBER,
            kind=EventKind.START,
            unique_id="1.1",
            received_at=self.now,
            digest=body,
            repeat_s=0.0,
            body=body,
        )
        await self.store.append([event])
        async with self.store.plan(now=self.now, limit=10) as batch:
            assert batch is not None
            (part,) = batch.parts
            call = call or part.events[0].id
            parts = [self.calls[one].version for one in (call, absorbed) if one in self.calls]
            new = Told(1 + sum(parts), stage)

            def told() -> None:
                for one in (call, absorbed):
                    if one in self.calls:
                        self.outdated[one, self.calls[one].version] = self.seconds()
                self.calls[call] = new
                if absorbed:
                    self.calls[absorbed].into = call

            facts = Facts(id=call, enterprise=NUMBER, version=new.version, first_at=self.now, last_at=self.now)
            known = CallRow(facts=facts, unique_id=str(call), started_at=self.now, ended_at=None, timer_at=None)
            planned = Planned(
                calls=[known],
                absorbed={absorbed: call} if absorbed else {},
                cards=[self._card(call, chat, new) for chat in CHATS],
                done={event.id: call for event in part.events},
            )
            held: Any = Batch(self.store._db, batch, told, self.now + CUT)
            await planner._commit(held, {NUMBER: planned}, ())
            return call

    def _card(self, call: int, chat: int, told: Told) -> CardRow:
        return CardRow(
            call_id=call,
            chat_id=chat,
            bot_id=BOT,
            stage=told.stage,
            replaces=frozenset(stage for stage in Stage if stage.rank < told.stage.rank),
            version=told.version,
            mode=self.mode,
            urgency=Urgency.LIVE,
            due_at=self.now + timedelta(seconds=1.0 if told.stage is Stage.START else 0.0),
        )

    def answer(self, node: Node, job: Job, how: str) -> None:
        """Telegram, or the way to it, answers ``how``."""
        request = job.waiting
        assert isinstance(request, Request)
        is_send = request.method == "sendMessage"
        broken = LOST if is_send else SERVER
        match how:
            case "executed, unheard":
                outcome = self._unheard(request, broken)
            case "late":
                self.late.append(request)
                outcome = broken
            case "broken":
                outcome = broken
            case "flood":
                outcome = Outcome(kind=Kind.FLOOD, reason=Reason.FLOOD, retry_after_s=7.0)
            case "shutdown" if is_send:
                outcome = Outcome(kind=Kind.AMBIGUOUS, reason=Reason.FLOOD, retry_after_s=5.0)
            case "not sent":
                outcome = NOT_SENT
            case _:
                outcome = self.telegram.execute(request)
                if outcome.kind is Kind.OK and is_send:
                    self.answered.append((node.name, request.chat, outcome.message_id))
        node.hear(job, outcome)

    def _unheard(self, request: Request, broken: Outcome) -> Outcome:
        """Executed, but nobody hears of it. A deletion that is refused stays refused."""
        outcome = self.telegram.execute(request)
        return broken if outcome.ok else outcome

    def do_late(self, which: Callable[[Request], bool]) -> None:
        """What Telegram holds is executed, though nobody waits for the answer any more."""
        for request in [request for request in self.late if which(request)]:
            self.late.remove(request)
            self.telegram.execute(request)

    def tick(self, seconds: float) -> None:
        while seconds > 0:
            self._tick(min(seconds, 1.0))
            seconds -= 1.0

    def _tick(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)
        for node in self.nodes:
            for job in node.asking():
                if isinstance(job.waiting, Request) and job.waiting.until <= self.now:
                    self.answer(node, job, "well")
        self.do_late(lambda held: held.until <= self.now)
        for node in self.planners():
            if node.planning and isinstance(node.planning.waiting, Commit) and node.planning.waiting.until <= self.now:
                node.commit("before")
        for node in self.nodes:
            if not node.frozen:
                node.resume()

    def kill(self, node: Node, executed: bool) -> None:
        """The node dies with what it has in flight; another process of a new name starts."""
        for job in node.asking():
            if executed:
                assert isinstance(job.waiting, Request)
                self._unheard(job.waiting, LOST)
        traced = self.traced()
        self.answered = [one for one in self.answered if one[0] != node.name or one[1:] in traced]
        node.die()
        self.nodes[self.nodes.index(node)] = self.new_node()

    def traced(self) -> Counter[tuple[int, int]]:
        """``{(chat, message): how often the trace says that it was sent}``"""
        sends = (one for one in self.store._db.actions if one.op is Op.SEND and one.executed)
        return Counter((one.chat_id, one.message_id) for one in sends)

    # What must hold

    def check_issued(self, request: Request, node: str, *, belated: bool) -> None:
        """Asked of each request as it leaves: by the lease's holder, not older than what the chat showed nor outdated, within
        the budgets. ``belated``: it follows from a commit whose answer came late."""
        lease = self.store._db.leases[BOT]
        assert (lease.owner, lease.until > self.now) == (node, True), f"{node} sends, but {lease}"
        text = request.payload.get("text", "")
        if len(text.split()) == 3:
            call, version = read(text)
            newest = self.telegram.newest[request.chat, call]
            assert version >= newest, f"{text!r} goes out after version {newest} was shown"
            for_s = self.seconds() - self.outdated.get((call, version), self.seconds())
            assert belated or for_s <= STALE_S, f"{text!r} goes out, outdated for {for_s:.1f} s"
        if request.method.startswith("delete"):
            return
        now = self.seconds()
        self.issued.append((now, request.chat))
        for window, most in ((1.0, LIMITS.bot_per_s),):
            recent = [at for at, _ in self.issued if at > now - window + 1e-6]
            assert len(recent) <= most, f"{len(recent)} calls of the bot within {window} s"
        for window in (1.0, 10.0):
            own = [at for at, chat in self.issued if chat == request.chat and at > now - window + 1e-6]
            most = LIMITS.private_burst + window + 1
            assert len(own) <= most, f"{len(own)} calls to chat {request.chat} within {window} s"
        del self.issued[:-200]

    def check_deleted(self, chat: int, message_id: int, text: str) -> None:
        """Readers see the new message before the old one goes. (One that was lost may be taken for another call's.)"""
        told = [one for one in self.store._db.actions if (one.chat_id, one.message_id) == (chat, message_id)]
        if self.repeated or not any(one.executed and not one.reason.startswith("found") for one in told):
            return
        there = [shown.text for shown in self.telegram.chats[chat].values() if shown.ours and len(shown.text.split()) == 3]
        root = self.root(read(text)[0])
        assert any(self.root(read(other)[0]) == root for other in there), f"{text!r} was deleted before anything took its place"

    def check_edit(self, old: str, new: str) -> None:
        if len(new.split()) == 3 and len(old.split()) == 3 and read(old)[0] == read(new)[0]:
            assert read(new)[1] >= read(old)[1], f"{old!r} was overwritten by {new!r}"

    def settle(self) -> None:
        """Everybody is well again and every call ends; then each chat must show each call's end, once."""
        for node in self.planners():
            node.commit()
        for call, told in list(self.calls.items()):
            if not told.into and told.stage is not Stage.HANGUP:
                self.plan(call, Stage.HANGUP)
        self.telegram.blocked.clear()
        for node in self.nodes:
            node.thaw()
        for turn in range(600):
            self._turn_well()
            self.tick(0.5 if turn < 200 else 5.0)
            if not any(node.busy for node in self.nodes) and not self.late and self._idle():
                break
        else:
            raise AssertionError("it does not come to rest")
        for call, told in self.calls.items():
            if not told.into:
                for chat in CHATS:
                    self.check_chat(chat, call, told)
        self.check_trace()

    def _turn_well(self) -> None:
        for chat in CHATS:
            run(self.store.lift_limit(BOT, chat))
        for node in self.nodes:
            node.lease()
            node.turn()
            while node.asking():
                for job in node.asking():
                    self.answer(node, job, "well")
            node.turn()

    def _idle(self) -> bool:
        return all(stored.card.due_at is None for stored in self.store._db.cards.values())

    def check_chat(self, chat: int, call: int, told: Told) -> None:
        group = {one for one in self.calls if self.root(one) == call}
        there = {
            message_id: message.text
            for message_id, message in self.telegram.chats[chat].items()
            if message.ours and len(message.text.split()) == 3 and read(message.text)[0] in group
        }
        wanted = f"{call} {told.stage} {told.version}"
        traced = self.traced()
        lost = sum(1 for where, message_id, one in self.sent if where == chat and one in group and not traced[chat, message_id])
        texts = list(there.values())
        assert wanted in texts, f"chat {chat} shows {there} instead of {wanted!r}"
        assert len(texts) <= 1 + lost, f"chat {chat} shows {there}; {lost} sends were lost"
        assert len(texts) == 1 or self.old, f"chat {chat} shows {there}: the lost ones were not cleaned"

    def check_trace(self) -> None:
        """Every send that was answered is in the trace, once."""
        traced = self.traced()
        for _, chat, message_id in self.answered:
            times = traced[chat, message_id]
            assert times == 1 or (self.repeated and times), f"message {message_id} is {times} times in the trace"
