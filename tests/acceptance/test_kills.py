"""Kills: of the program, of its database, at any moment. What was answered 200 is there, and in the end every chat is right."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from callgram.replay import Post

from ..serve import until
from .harness import Office, Program, Telegram, new_office
from .recordings import as_new_call, capture, is_final, read_final, scenario, with_token

SEED = 20260601
VICTIMS = ("serve", "serve and database", "database", "serve")
RECORDINGS = (
    capture("asterisk16-classic/in_ringgroup"),
    capture("asterisk22-pjsip/out_answered.agent"),
    scenario("incoming-cascade"),
    scenario("incoming-missed"),
    capture("asterisk22-pjsip/xfer_blind_refer"),
)


@pytest.fixture(scope="module")
def program(make_program: Callable[..., Program]) -> Program:
    program = make_program(embedded=True)
    # A database that was killed is said loudly, by the supervisor and by those who lost an answer of it.
    program.expected_errors = ["embedded PostgreSQL (ended|is still down)", "the store does not take them"]
    program.start()
    return program


def event(office: Office, at: int, **more: object) -> bytes:
    body = {"Token": office.token, "UniqueId": f"1757890000.{at}", "Phone": f"37529777{at:04}", "CallType": 0}
    return json.dumps(body | {"Extensions": ["150"], "Trunk": "0001363"} | more).encode()


def test_an_event_that_was_answered_200_survives_a_kill_right_behind_the_answer(
    program: Program, telegram: Telegram
) -> None:
    office = new_office()
    program.add([office])
    for at in range(2):
        assert program.post("dial", event(office, at)).status == 200
        program.kill()
        program.start()
        assert program.stored(office) == [event(office, place) for place in range(at + 1)]
    for at in range(2):  # the kill left its message in doubt, which the next stage ends
        assert program.post("hangup", event(office, at, Extensions=[""], CallStatus="1")).status == 200
    program.settled(office)
    for chat in office.chats:
        assert [is_final(text) for text in telegram.texts(office.bot, chat)] == [True, True]


def test_events_answered_200_survive_a_killed_database_which_comes_back_by_itself(
    program: Program, telegram: Telegram
) -> None:
    office = new_office()
    program.add([office])
    assert program.process is not None
    pid, answered, refused, ended = program.process.pid, [], [], threading.Event()

    def host() -> None:
        for at in range(100_000):
            if ended.is_set():
                return
            answer = program.post("dial", event(office, at))
            (answered if answer.status == 200 else refused).append((at, answer))

    posting = threading.Thread(target=host)
    posting.start()
    until(lambda: len(answered) > 20, "traffic flows")
    kill_database(program)
    n_before = len(answered)
    until(lambda: len(answered) > n_before + 20, "traffic flows again", 30)
    ended.set()
    posting.join(20)
    assert {answer.status for _, answer in refused} <= {503}
    assert all(answer.json["error"] for _, answer in refused)
    assert program.process is not None
    assert (program.process.pid, program.process.poll()) == (pid, None)
    stored = Counter(program.stored(office))
    assert not [at for at, _ in answered if not stored[event(office, at)]]
    assert max(stored.values()) == 1
    until(lambda: program.get("/health/ready").status == 200, "it is ready again")
    program.settled(office, deadline_s=60)
    for chat in office.chats:
        shown = Counter(telegram.texts(office.bot, chat))
        assert len(shown) == len(stored)


def kill_database(program: Program) -> None:
    postmaster = int((program.data / "pg18" / "postmaster.pid").read_text().split("\n")[0])
    os.kill(postmaster, signal.SIGKILL)
    program.disconnect()


class Hosts:
    """Three hosts that play calls one after another, and repeat an event until it is answered, until they are told to end."""

    def __init__(self, program: Program, office: Office) -> None:
        self.calls: dict[str, str] = {}
        self.program, self.office = program, office
        self._ending = threading.Event()
        self._playing = [threading.Thread(target=self._play, args=[place], daemon=True) for place in range(3)]
        for playing in self._playing:
            playing.start()

    def end(self) -> None:
        """Let every call that has begun be told to its end."""
        self._ending.set()
        for playing in self._playing:
            playing.join(60)
            assert not playing.is_alive()

    def _play(self, place: int) -> None:
        chance = random.Random(SEED + place)
        for at in itertools.count():
            if self._ending.is_set():
                return
            number = f"3752950{place}{at:04}"
            recording = as_new_call(chance.choice(RECORDINGS), number, 1_760_000_000 + place * 100_000 + at)
            for before, post in itertools.pairwise([recording[0], *recording]):
                time.sleep(min((post.at_s - before.at_s) / 40, 0.3))
                until(lambda post=post: self._taken(post), "the event is taken", 60)
            self.calls[number] = recording[0].kind

    def _taken(self, post: Post) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return self.program.post(post.kind, with_token(post.body, self.office.token)).status == 200
        return False


def test_after_kills_at_random_moments_every_chat_is_right(
    program: Program, telegram: Telegram
) -> None:
    office, chance = new_office(n_chats=3), random.Random(SEED)
    program.add([office])
    hosts = Hosts(program, office)
    try:
        for victim in VICTIMS:
            busy = telegram.ask(lambda state: state.truth.last_seq) + chance.randrange(5, 60)
            until(lambda busy=busy: telegram.ask(lambda state: state.truth.last_seq) > busy, "traffic flows")
            if "database" in victim:
                kill_database(program)
            if "serve" in victim:
                program.kill()
                program.start()
    finally:
        hosts.end()
    program.settled(office, deadline_s=60)

    assert len(hosts.calls) >= 2 * len(VICTIMS)
    for chat in office.chats:
        texts = telegram.texts(office.bot, chat)
        finals = Counter(final.client for final in map(read_final, texts) if final)
        assert finals == Counter(dict.fromkeys(hosts.calls, 1)), difference(finals, hosts.calls)
        assert [text for text in texts if not is_final(text)] == []
    done = {(one.kind, one.chat_id, one.message_id) for one in telegram.truth(office.bot)}

    def untold() -> list[tuple[str, int, int]]:
        """A kill has lines told twice, so that their number does not say when the last one is there."""
        told = {(line.what, line.chat_id, line.message_id) for line in program.trace(office) if line.source == "TG"}
        # Whether an edit was executed is not known when the next stage has replaced it; that it was tried is told.
        return [one for one in done - told if not (one[0] == "edit" and ("fail", one[1], one[2]) in told)]

    until(lambda: not untold(), "every executed action is in the trace")


def difference(finals: Counter[str], calls: dict[str, str]) -> str:
    missing = [client for client in calls if not finals[client]]
    return f"missing {missing}, more than one {[client for client, n in finals.items() if n > 1]}"
