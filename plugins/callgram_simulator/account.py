"""Methods about the bot itself, its updates and callback queries (rules R07, R08, R78, R87-R89)."""

import time

from callgram_simulator.access import Call
from callgram_simulator.errors import bad_request, too_many_requests
from callgram_simulator.inbox import Webhook
from callgram_simulator.params import lenient_integer
from callgram_simulator.sending import Step
from callgram_simulator.wire import Update

MAX_POLL_S = 50.0
MAX_UPDATES = 100


def get_me(call: Call) -> Step:
    return Step(lambda: call.bot.user)


def accept(call: Call) -> Step:
    """A method that only has to be there, such as setMyCommands."""
    return Step(lambda: True)


def log_out(call: Call) -> Step:
    def commit() -> bool:
        call.bot.state = "logged out"
        return True

    return Step(commit)


def answer_callback_query(call: Call) -> Step:
    query_id, text = call.params.text("callback_query_id"), call.params.text("text")
    made_at = call.bot.callbacks.pop(query_id, None)
    if made_at is None or call.state.clock.now() - made_at > call.state.settings.callback_lifetime_s:
        raise bad_request("query is too old and response timeout expired or query ID is invalid")

    def commit() -> bool:
        call.state.feed.publish({"type": "answer", "bot_id": call.bot.id, "callback_query_id": query_id, "text": text})
        return True

    return Step(commit)


async def get_updates(call: Call) -> list[Update]:
    params = call.params
    limit = lenient_integer(params.text("limit") or str(MAX_UPDATES))
    limit = limit if 0 < limit <= MAX_UPDATES else MAX_UPDATES
    timeout_s = min(max(float(params.integer("timeout")), 0.0), MAX_POLL_S)
    return await call.bot.inbox.fetch(params.integer("offset"), limit, timeout_s)


def set_webhook(call: Call) -> Step:
    """Set or, without a URL, remove the webhook. Unlike the real server, plain http and any port are taken."""
    inbox, url = call.bot.inbox, call.params.text("url")
    now = time.monotonic()
    if now - inbox.set_webhook_at < 1:
        raise too_many_requests(1)
    if url and not url.startswith(("http://", "https://")):
        raise bad_request("bad webhook: An HTTPS URL must be provided for webhook")

    def commit() -> bool:
        inbox.set_webhook_at = now
        inbox.webhook = Webhook(url=url, secret=call.params.text("secret_token")) if url else None
        if call.params.flag("drop_pending_updates"):
            inbox.pending.clear()
        inbox.end_poll("terminated by setWebhook request")
        return True

    return Step(commit)


def delete_webhook(call: Call) -> Step:
    inbox = call.bot.inbox

    def commit() -> bool:
        inbox.webhook = None
        if call.params.flag("drop_pending_updates"):
            inbox.pending.clear()
        return True

    return Step(commit)


def get_webhook_info(call: Call) -> Step:
    inbox = call.bot.inbox
    url = inbox.webhook.url if inbox.webhook else ""
    info = {"url": url, "has_custom_certificate": False, "pending_update_count": len(inbox.pending)}
    return Step(lambda: info)
