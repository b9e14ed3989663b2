"""What may be set in the simulator. Every default is the behaviour of the real server as far as it is known."""

from typing import Literal

from msgspec import Struct


class FloodSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits of Telegram's flood control. The exact numbers are not published; these follow its FAQ (rules R79-R85)."""

    enabled: bool = True
    private_per_s: float = 1.0
    private_burst: int = 5
    group_per_minute: float = 20.0
    group_burst: int = 20
    bot_per_s: float = 30.0
    bot_burst: int = 30
    held_s: float = 8.0
    """A request that has to wait no longer than this is held and then executed; a longer wait is answered 429."""
    extend_when_hammered: bool = False
    """A request during a closed window starts the window anew."""
    unsent_per_chat: int = 310
    active_per_bot: int = 1000
    overload_pause_s: float = 3.0
    new_tokens_per_minute: int = 20
    new_tokens_per_hour: int = 600


class AnswerSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which answer to give where the sources allow, or disagree on, two."""

    malformed_token: Literal[401, 404] = 401
    """R04: a self-hosted server says 401, the front end of api.telegram.org is remembered to say 404."""
    double_delete: Literal["true", "not found"] = "true"
    """R67: what the later of two concurrent deletes of one message gets."""
    blocked_refuses_edits: bool = False
    """Whether edits and deletes fail too once the user has blocked the bot; the sources only settle sends (R29)."""


class SimulatorSettings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    host: str = "127.0.0.1"
    port: int = 8081
    """0 picks a free port; see ``Simulator.url``."""
    any_token: bool = True
    """Any well-formed token is a bot. Otherwise only tokens registered through the control API are."""
    auto_chats: bool = True
    """A chat that a bot names for the first time springs into being, started and writable."""
    truth_limit: int = 200_000
    """How many newest entries of the truth log are kept."""
    messages_per_chat: int = 5_000
    """How many newest messages of a chat are kept; older ones are gone as if deleted."""
    callback_lifetime_s: float = 600.0
    flood: FloodSettings = FloodSettings()
    answers: AnswerSettings = AnswerSettings()
