"""The command line. Answers ``--help`` at once: servers, clients and databases are imported by the command that needs them."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click

from callgram import __version__
from callgram.cli import admin, run, trace
from callgram.errors import CallgramError
from callgram.settings import ENVIRONMENT

Result = TypeVar("Result")

SECTIONS = {
    "Run": ("serve", "demo", "simulator"),
    "Look after": ("plugins", "enterprise", "subscriber", "operator", "details", "sinks"),
    "Find out": ("trace",),
    "Try out": ("replay",),
}


class Commands(click.Group):
    """Own commands and those of plugins, listed in sections."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        listed = {name for names in SECTIONS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in listed)
        for title, names in {**SECTIONS, "From plugins": others}.items():
            commands = [(name, self.get_command(ctx, name)) for name in names]
            rows = [(name, one.get_short_help_str(90)) for name, one in commands if one and not one.hidden]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment"):
            formatter.write_dl(list(ENVIRONMENT.items()))


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="callgram")
def callgram() -> None:
    """Live Telegram messages for the calls of your Asterisk hosts.

    \b
    Try it:       callgram demo
    First steps:  callgram enterprise add 0367 --token 375290000001 --bot-token 123456:ABC…
                  callgram subscriber add 0367 374573193
                  callgram serve
    """


for command in (
    run.serve,
    run.worker,
    run.demo,
    admin.plugins,
    admin.enterprise,
    admin.subscriber,
    run.replay,
    trace.sinks,
    trace.trace,
):
    callgram.add_command(command)


def _plugin_commands(group: click.Group) -> None:
    """Commands that plugins bring. A broken plugins.toml must not take the other commands away: it is said when used."""
    from callgram.loader import commands_of_plugins

    for command in commands_of_plugins():
        if isinstance(command, click.Command) and command.name not in group.commands:
            group.add_command(command)


def guarded(function: Callable[[], Result]) -> Result:
    """Run; an error of ours ends the program with its text, which says what to do, and exit code 1."""
    try:
        return function()
    except CallgramError as error:
        click.secho(f"callgram: {error}", fg="red", err=True)
        sys.exit(1)


def main(argv: list[str] | None = None) -> Any:
    _plugin_commands(callgram)
    return guarded(lambda: callgram.main(argv, prog_name="callgram"))
