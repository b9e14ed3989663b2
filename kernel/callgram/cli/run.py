"""Commands that run something: serve, demo, replay."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any

import click

from callgram.errors import ConfigError
from callgram.settings import MOST_WORKERS, ROLES, Settings, load
from callgram.shards import Shard

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--host", help="Address to listen on (CALLGRAM_HOST; 127.0.0.1).")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="Port to listen on (CALLGRAM_PORT; 8080). 0 takes a free one."
)
@click.option("--roles", help=f"What this process does, of {','.join(ROLES)}. All by default.")
@click.option(
    "--workers",
    type=click.IntRange(1, MOST_WORKERS),
    help="Processes that plan and send, for more cores (CALLGRAM_WORKERS; 1).",
)
@click.option(
    "--plugins", type=_FILE, help="plugins.toml to use (CALLGRAM_PLUGINS; ./plugins.toml, else the shipped one)."
)
def serve(**options: Any) -> None:
    """Take events, keep the chats true, write the trace. Until Ctrl-C."""
    from callgram import logs, workers

    options["roles"] = _roles(options["roles"])
    settings = load(serving=True, **options)
    workers.check(settings.workers, settings.roles)
    logs.set_up()
    import uvloop

    with workers.shared_metrics(settings.workers):
        uvloop.run(_serve(settings))


@click.command(hidden=True)
@click.option("--number", type=int, required=True)
@click.option("--first", type=int, required=True)
@click.option("--behind", type=int, required=True)
@click.option("--roles", required=True)
def worker(number: int, first: int, behind: int, roles: str) -> None:
    """Another worker of a serve, which starts it. See callgram.workers."""
    from callgram import logs, workers

    workers.Serve.leave_signals()
    settings = load(serving=True, worker=number, shard=Shard(first, behind), roles=_roles(roles), workers=1)
    logs.set_up(who=f"worker {number}: ")
    import uvloop

    uvloop.run(_work(settings))


def _roles(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    roles = tuple(role.strip() for role in text.split(",") if role.strip())
    unknown = [role for role in roles if role not in ROLES]
    if unknown or not roles:
        raise ConfigError(f"--roles: {unknown[0] if unknown else text!r} is not one of {', '.join(ROLES)}")
    return roles


async def _serve(settings: Settings) -> None:
    from loguru import logger

    from callgram.service import running

    async with running(settings) as service:
        n_enterprises = len(service.directory.enterprises)
        logger.info("callgram serves {} enterprises at {}", n_enterprises, service.url)
        if not n_enterprises:
            logger.info("no enterprise yet: callgram enterprise add NUMBER --token T --bot-token B")
        await service.until_stopped()
    logger.info("callgram has stopped; nothing was in flight")


async def _work(settings: Settings) -> None:
    from callgram.service import running
    from callgram.workers import Serve

    serve = Serve()
    listening = asyncio.create_task(serve.listen(), name="serve")
    async with running(settings, serve=serve) as service:
        await service.until_stopped(serve.told_to_stop())
    listening.cancel()


@click.command()
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="Port of callgram.")
@click.option(
    "--chats-port", type=click.IntRange(0, 65_535), default=8081, show_default=True, help="Port of the chat view."
)
@click.option("--speed", type=float, default=1.0, show_default=True, help="2 plays the calls twice as fast.")
@click.option("--once", is_flag=True, help="Play every call once, then stop.")
def demo(**options: Any) -> None:
    """Recorded real calls, a simulated Telegram, and its chats in your browser. Needs nothing."""
    from callgram.demo import play

    asyncio.run(play(**options))


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--url",
    default=lambda: f"http://127.0.0.1:{os.environ.get('CALLGRAM_PORT') or 8080}",
    show_default="http://127.0.0.1, CALLGRAM_PORT or 8080",
    help="callgram to post to.",
)
@click.option(
    "--speed", type=click.FloatRange(min=0.001), default=1.0, show_default=True, help="10 is ten times as fast."
)
@click.option("--token", help="Token to send instead of the recorded one (a trace file holds none).")
def replay(files: tuple[Path, ...], url: str, speed: float, token: str | None) -> None:
    """Post recorded calls again: scenarios (.json), captures (.jsonl) or trace files (.log)."""
    from callgram.replay import read, replay_all

    calls = [read(path) for path in files]
    result = asyncio.run(replay_all(calls, url.rstrip("/"), speed=speed, token=token))
    click.echo(f"{result.n_posted} events posted, {result.n_refused} refused")
    if result.n_refused:
        raise ConfigError(f"first refusal: {result.first_refusal}")
