"""callgram: live Telegram messages for the calls of Asterisk hosts, and a complete trace of them.

What a plugin may use is named in ``__all__`` and stays compatible within one plugin API version. Nothing here imports
a server or a client: ``import callgram`` is cheap.
"""

from callgram import fetching, lines, tracelines
from callgram.audio import Audio
from callgram.calls.history import retold, told_around
from callgram.calls.story import Call, Cause, Direction, Result, Side, tell
from callgram.cards import Message, Plan, Stage
from callgram.commands import with_store
from callgram.context import Chat, Context, Directory, Enterprise, Locale, Secret
from callgram.errors import CallgramError, ConfigError, PluginError, StoreError
from callgram.events import Enrichment, Event, History, Kind
from callgram.hooks import API_VERSION, hookimpl
from callgram.naming import NameTable
from callgram.numbers import NumberPlan
from callgram.reading import CallFile, CallFilter, CallPage, Listed
from callgram.store import Store
from callgram.text import catalogue, clock, duration, escape, html_lines, one_line, phone, visible
from callgram.trace import Action, Op, Record

__version__ = "0.1.0"

__all__ = [
    "API_VERSION",
    "Action",
    "Audio",
    "Call",
    "CallFile",
    "CallFilter",
    "CallPage",
    "CallgramError",
    "Cause",
    "Chat",
    "ConfigError",
    "Context",
    "Direction",
    "Directory",
    "Enrichment",
    "Enterprise",
    "Event",
    "History",
    "Kind",
    "Listed",
    "Locale",
    "Message",
    "NameTable",
    "NumberPlan",
    "Op",
    "Plan",
    "PluginError",
    "Record",
    "Result",
    "Secret",
    "Side",
    "Stage",
    "Store",
    "StoreError",
    "catalogue",
    "clock",
    "duration",
    "escape",
    "fetching",
    "hookimpl",
    "html_lines",
    "lines",
    "one_line",
    "phone",
    "retold",
    "tell",
    "told_around",
    "tracelines",
    "visible",
    "with_store",
]
