"""Recordings as replies, by the real program on its database: killed where it hurts, and once in each chat all the same."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from callgram_simulator.faults import Fault

from ..serve import until
from .harness import Office, Program, Telegram, new_office, plugins_toml

RECORDING = b"OggS" + bytes(24) + b"OpusHead" + bytes(5000)
SETTINGS = '{ audio = "reply", allow_private = true, base_url = "http://calls.example.com" }'


class Pbx:
    """A host with recordings; it keeps whoever asks waiting until ``open`` is set."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.asked = 0
        pbx = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                pbx.asked += 1
                if not pbx.open.wait(30):
                    return
                self.send_response(200)
                self.send_header("Content-Type", "audio/ogg")
                self.send_header("Content-Length", str(len(RECORDING)))
                self.end_headers()
                self.wfile.write(RECORDING)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/secret-place/1.ogg"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.open.set()
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def pbx() -> Iterator[Pbx]:
    pbx = Pbx()
    yield pbx
    pbx.close()


@pytest.fixture(scope="module")
def program(make_program: Callable[..., Program]) -> Program:
    names = ("postgres", "start", "dial", "bridge", "hangup", "recordings", "tracer", "simulator")
    program = make_program(plugins_toml(*names, recordings=SETTINGS))
    program.start()
    return program


def end_a_call(program: Program, office: Office, pbx: Pbx, uid: str) -> None:
    told = {"UniqueId": uid, "Phone": "375296254070", "CallType": 0, "Trunk": "0001363"}
    program.secrets.add("secret-place")
    program.tell(office, "start", **told)
    program.tell(office, "hangup", **told, Extensions=["151"], CallStatus="2")
    program.tell(office, "recording", UniqueId=uid, Url=pbx.url)


def linked(telegram: Telegram, office: Office, chat: int) -> bool:
    return any("🔉" in text for text in telegram.texts(office.bot, chat))


def audio_of(telegram: Telegram, office: Office) -> list[int]:
    return [one.chat_id for one in telegram.truth(office.bot) if one.media == "voice"]


def test_killed_between_the_message_and_the_reply_it_replies_once(
    program: Program, telegram: Telegram, pbx: Pbx
) -> None:
    office = new_office()
    program.add([office])
    end_a_call(program, office, pbx, "1757900000.1")
    until(lambda: pbx.asked and all(linked(telegram, office, chat) for chat in office.chats), "links are there")
    program.kill()
    pbx.open.set()
    program.start()
    until(lambda: len(audio_of(telegram, office)) == len(office.chats), "every chat has its reply")
    program.settled(office)
    program.kill()
    program.start()
    end_a_call(program, office, pbx, "1757900000.1")
    program.settled(office)
    assert sorted(audio_of(telegram, office)) == sorted(office.chats)
    sends = [line for line in program.trace_text(office).splitlines() if "🔉 voice" in line]
    assert len(sends) == len(office.chats)


def test_killed_while_replies_are_out_it_sends_none_again_and_says_so(
    program: Program, telegram: Telegram, pbx: Pbx
) -> None:
    office = new_office()
    program.add([office])
    pbx.open.set()
    hold = Fault(action="hold", method="sendVoice", bot_id=office.bot, seconds=3.0)
    telegram.ask(lambda state: state.faults.add(hold))
    end_a_call(program, office, pbx, "1757900000.2")
    promised = "SELECT count(*) FROM telegram_messages WHERE enterprise = $1 AND shown::text LIKE '%\"audio\": true%'"
    until(lambda: program.sql(promised, office.number)[0][0], "a reply is promised")
    program.kill()
    program.start()
    program.settled(office, deadline_s=40)
    until(lambda: len(audio_of(telegram, office)) >= len(office.chats) - 1, "the others have theirs")
    program.settled(office, deadline_s=40)
    doubts = "SELECT count(*) FROM telegram_actions WHERE enterprise = $1 AND outcome = 'ambiguous' AND text LIKE '🔉%'"
    assert program.sql(doubts, office.number)[0][0] == 1
    sent = audio_of(telegram, office)
    assert len(sent) == len(set(sent)), "none twice"
