"""The process: it stops cleanly in the middle of traffic, guards its data directory, and tells how it is."""

from __future__ import annotations

import json
import re
import signal
import threading
from collections.abc import Callable

import pytest

from ..serve import until, users
from .harness import Program, Telegram, new_office, plugins_toml
from .recordings import as_new_call, capture, is_final, read_final

BROKEN = '[[plugin]]\nname = "acme_crm"\n'


@pytest.fixture(scope="module")
def own(make_program: Callable[..., Program]) -> Program:
    program = make_program(embedded=True)
    program.start()
    return program


def test_sigterm_in_the_middle_of_traffic_loses_nothing_and_the_next_start_goes_on(
    own: Program, telegram: Telegram
) -> None:
    office = new_office(n_chats=3)
    own.add([office])
    recording = capture("asterisk16-classic/in_ringgroup")
    answered: list[bytes] = []

    def host() -> None:
        """Posts calls one after another until nobody answers any more."""
        for at in range(1000):
            for post in as_new_call(recording, f"37529666{at:04}", 1757870000 + at):
                body = json.dumps(json.loads(post.body) | {"Token": office.token}).encode()
                try:
                    answer = own.post(post.kind, body)
                except OSError:
                    return
                assert answer.status == 200
                answered.append(body)

    posting = threading.Thread(target=host)
    posting.start()
    until(lambda: len(answered) > 60, "traffic flows")
    assert own.stop() == 0
    posting.join(20)
    assert "nothing was in flight" in own.log
    until(lambda: not users(own.base), "no process is left")

    own.start()
    assert set(answered) <= set(own.stored(office))
    own.settled(office)
    n_ended = sum(b'"CallStatus"' in body for body in own.stored(office))
    assert n_ended >= 5
    for chat in office.chats:
        texts = telegram.texts(office.bot, chat)
        clients = [final.client for final in map(read_final, texts) if final]
        assert len(clients) == len(set(clients)) == n_ended
        assert sum(not is_final(text) for text in texts) <= 1, "the call that was cut off may still be shown"
    told = [line for line in own.trace(office) if line.source == "TG" and line.what in {"send", "edit", "delete"}]
    done = telegram.truth(office.bot)
    for chat in office.chats:
        assert [(line.what, line.message_id) for line in told if line.chat_id == chat] == [
            (one.kind, one.message_id) for one in done if one.chat_id == chat
        ], "each exactly once and in order, over the restart"


def test_sigterm_during_the_start_ends_it(make_program: Callable[..., Program]) -> None:
    program = make_program(embedded=True)
    program.start(wait=False)
    until((program.data / "postgres.lock").exists, "the start is under way")
    code = program.stop()
    assert code in {0, -signal.SIGTERM}
    until(lambda: not users(program.base), "no process is left")
    assert "Traceback" not in program.log


def test_a_second_serve_on_the_data_directory_is_refused_with_the_reason(own: Program) -> None:
    refused = own.cli("serve")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert own.process is not None
    assert refused.stderr.startswith("callgram: ")
    assert f"is owned by process {own.process.pid}" in refused.stderr
    assert "CALLGRAM_DATA_DIR" in refused.stderr
    assert refused.stderr.count("\n") == 1
    assert own.get("/health/ready").status == 200


def test_a_taken_port_is_refused_with_the_remedy(own: Program, make_program: Callable[..., Program]) -> None:
    port = own.url.rpartition(":")[2]
    other = make_program(CALLGRAM_PORT=port)
    refused = other.cli("serve")
    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1] == (
        f"callgram: cannot listen on 127.0.0.1:{port}: Address already in use; set CALLGRAM_HOST and CALLGRAM_PORT"
    )
    assert "Traceback" not in refused.stderr
    assert not users(other.base)


def test_a_live_process_says_so(program: Program) -> None:
    assert program.get("/health/live").json == {"status": "live"}


def test_a_ready_process_names_its_bots_and_sinks(program: Program) -> None:
    answer = program.get("/health/ready")
    assert answer.status == 200
    report = answer.json
    assert (report["status"], report["store"], report["plugins"]) == ("ready", "ok", "ok")
    assert report["bots"]["used"] == report["bots"]["owned"] > 0
    assert set(report["sinks"]) == {"tracer"}


def test_a_plugin_that_is_not_installed_makes_it_not_ready_and_stops_nothing(
    make_program: Callable[..., Program], telegram: Telegram
) -> None:
    program, office = make_program(plugins_toml() + BROKEN), new_office()
    program.start(ready=False)
    program.add([office])
    answer = program.get("/health/ready")
    assert answer.status == 503
    assert answer.json["status"] == "not ready"
    assert set(answer.json["plugins"]) == {"acme_crm"}
    assert "not installed" in answer.json["plugins"]["acme_crm"]
    assert program.get("/health/live").status == 200
    program.play([(office, capture("asterisk22-pjsip/in_answered"))])
    program.settled(office)
    for chat in office.chats:
        (text,) = telegram.texts(office.bot, chat)
        assert is_final(text)


def test_a_required_plugin_that_is_not_installed_stops_the_start(make_program: Callable[..., Program]) -> None:
    program = make_program(plugins_toml() + BROKEN + "required = true\n")
    refused = program.cli("serve")
    assert (refused.returncode, refused.stderr.count("\n")) == (1, 1)
    assert refused.stderr.startswith("callgram: ")
    assert "acme_crm" in refused.stderr
    assert "not installed" in refused.stderr


def test_metrics_count_what_happens(own: Program) -> None:
    program, office = own, new_office()  # of whose calls all are settled, so that nobody else is counted
    program.add([office])

    def counted(name: str) -> float:
        text = program.get("/metrics").body.decode()
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE))

    names = ("callgram_events_stored_total", "callgram_events_planned_total", "callgram_telegram_calls_total")
    before = {name: counted(name) for name in names}
    refused = counted("callgram_events_refused_total")
    recording = capture("asterisk22-pjsip/out_answered")
    program.play([(office, recording)])
    program.settled(office)
    assert program.post("start", b"no event").status == 400
    n_done = program.sql("SELECT count(*) FROM telegram_actions WHERE enterprise = $1", office.number)[0][0]
    happened = [len(recording), len(recording), n_done]
    until(lambda: [counted(name) - before[name] for name in names] == happened, "all is counted, behind its commit")
    assert counted("callgram_events_refused_total") == refused + 1
    assert counted("callgram_commit_seconds_count") > 0
    n_bots = program.get("/health/ready").json["bots"]["owned"]
    until(lambda: counted("callgram_bots_owned") == n_bots, "its bots are counted")
    text = program.get("/metrics").body.decode()
    assert not [secret for secret in program.secrets if secret in text]


def test_the_openapi_document_lists_every_route(program: Program) -> None:
    answer = program.get("/schema/openapi.json")
    assert answer.status == 200
    paths = answer.json["paths"]
    kinds = ("start", "dial", "bridge", "hangup", "bridge_create", "bridge_leave", "bridge_destroy", "new_callerid")
    assert set(paths) >= {f"/{kind}" for kind in kinds} | {"/health/live", "/health/ready", "/metrics"}
    for kind in kinds:
        post = paths[f"/{kind}"]["post"]
        assert {"200", "400", "403", "413", "422", "503"} <= set(post["responses"])
        assert "Token" in json.dumps(post["requestBody"])
