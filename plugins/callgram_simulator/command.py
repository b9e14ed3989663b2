"""``callgram simulator``: run the simulator until Ctrl-C."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import click

from callgram import ConfigError


@click.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65_535), default=8081, show_default=True, help="Port; 0 takes a free one."
)
@click.option("--flood/--no-flood", default=True, show_default=True, help="Whether Telegram's rate limits hold.")
@click.option("--registered-only", is_flag=True, help="Take only bots and chats made through the control API.")
@click.option(
    "--state", type=click.Path(dir_okay=False, path_type=Path), help="File that keeps the chats over a restart."
)
def simulator(host: str, port: int, flood: bool, registered_only: bool, state: Path | None) -> None:
    """A Telegram of your own: the Bot API, its limits and faults, and the chats in your browser."""
    from callgram_simulator.keeping import kept
    from callgram_simulator.server import Simulator
    from callgram_simulator.settings import FloodSettings, SimulatorSettings

    settings = SimulatorSettings(
        host=host,
        port=port,
        any_token=not registered_only,
        auto_chats=not registered_only,
        flood=FloodSettings(enabled=flood, new_tokens_per_minute=10_000, new_tokens_per_hour=100_000),
    )

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            try:
                server = await stack.enter_async_context(Simulator(settings))
            except OSError as error:
                raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; give another --host or --port") from None
            click.echo(f"Bot API and chat view at {server.url}   (Ctrl-C stops it)")
            click.echo(f"callgram serve with CALLGRAM_TELEGRAM_API_URL={server.url} writes to it")
            if state:
                await stack.enter_async_context(kept(server.state, state))
            await _until_told()

    asyncio.run(run())


async def _until_told() -> None:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await stop.wait()
