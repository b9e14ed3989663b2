"""Who may see what: every route, every enterprise, every kind of reader; and what each answer says to a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import urllib.error
import urllib.parse
import urllib.request
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any

import pytest

from .conftest import PASSWORD, Site

BARE = (404, b"Not found")


class Reader:
    """A browser without scripts: keeps cookies, follows nothing."""

    def __init__(self, url: str, bearer: str = "") -> None:
        policy = DefaultCookiePolicy(secure_protocols=("http", "https"))  # as browsers do for this very machine
        self.url, self.jar, self.bearer = url, CookieJar(policy), bearer
        self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(self.jar), _Stay())

    def get(self, path: str, data: dict[str, str] | None = None) -> tuple[int, bytes, dict[str, str]]:
        body = urllib.parse.urlencode(data).encode() if data is not None else None
        request = urllib.request.Request(self.url + path, data=body)
        if self.bearer:
            request.add_header("Authorization", f"Bearer {self.bearer}")
        try:
            with self._opener.open(request, timeout=10) as answer:
                return answer.status, answer.read(), {k.lower(): v for k, v in answer.headers.items()}
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read(), {k.lower(): v for k, v in error.headers.items()}

    def log_in(self, login: str, password: str = PASSWORD, **more: str) -> int:
        _, form, _ = self.get("/calls/login")
        csrf = re.search(rb'name="csrf" value="([^"]+)"', form)
        assert csrf
        return self.get("/calls/login", {"login": login, "password": password, "csrf": csrf[1].decode(), **more})[0]


class _Stay(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **kwargs: Any) -> None:
        return None


def logged_in(site: Site, login: str) -> Reader:
    reader = Reader(site.url)
    assert reader.log_in(login) == 303
    return reader


def routes_of(unique_id: str) -> list[str]:
    """Every route that shows something of a call."""
    return [
        f"/call/details/{unique_id}",
        f"/call/details/{unique_id}/live",
        f"/call/details/{unique_id}/record",
        f"/call/details/{unique_id}/rest",
        f"/api/calls/{unique_id}",
        f"/api/calls/{unique_id}/export.log",
        f"/api/calls/{unique_id}/export.mmd",
    ]


def test_every_route_of_the_plugin_is_in_this_sweep(site: Site) -> None:
    from callgram_details.lists import make_list_routes
    from callgram_details.routes import make_routes

    known = {path.replace("X", "{unique_id:str}") for path in routes_of("X")}
    others = {"/details/assets/{name:str}", "/calls", "/calls.csv", "/calls/login", "/calls/logout"}
    found = {path for route in (*make_routes(site), *make_list_routes(site)) for path in route.paths}
    assert found == known | others


def test_the_same_page_from_every_leg_and_another_kind_of_reader(site: Site) -> None:
    shape = site.shapes["incoming-attended-transfer"]
    texts = set()
    for unique_id in shape.channels:
        status, body, _ = Reader(site.url).get(f"/call/details/{unique_id}?s={site.link(shape)}")
        assert status == 200
        texts.add(frozenset(re.findall(rb'<li id="(\w+)"', body)))
    assert len(texts) == 1
    anna = logged_in(site, "anna")
    assert anna.get(f"/call/details/{shape.unique_id}?e={shape.enterprise}")[0] == 200


def test_every_route_is_a_bare_404_for_whoever_may_not_see_it(site: Site) -> None:
    shapes = list(site.shapes.values())
    boris = logged_in(site, "boris")
    for at, shape in enumerate(shapes):
        foreign = shapes[at - 1]
        link = site.link(foreign)
        for path in routes_of(shape.unique_id):
            if shape.unique_id not in foreign.channels:
                assert Reader(site.url).get(f"{path}?s={link}")[:2] == BARE, path
            assert Reader(site.url).get(path)[:2] == BARE, path
            assert Reader(site.url).get(f"{path}?s={site.link(shape)[:-3]}xyz")[:2] == BARE, path
            assert Reader(site.url).get(f"{path}?s={site.link(shape, days=-1)}")[:2] == BARE, path
            other = Reader(site.url, site.bearers[foreign.enterprise])
            assert other.get(f"{path}?e={shape.enterprise}")[:2] == BARE, path
            if shape.enterprise != "7001":
                assert boris.get(f"{path}?e={shape.enterprise}")[:2] == BARE, path


@pytest.mark.parametrize("unique_id", ["nothing", "%00", "..%2f..%2fetc", "1" * 5000, "'%20OR%201=1", "%F0%9F%98%80"])
def test_what_is_unknown_is_the_same_404(site: Site, unique_id: str) -> None:
    shape = site.shapes["incoming-missed"]
    status, _, headers = Reader(site.url).get(f"/call/details/{unique_id}?s={site.link(shape)}")
    assert status == 404
    anna = logged_in(site, "anna")
    assert anna.get(f"/call/details/{unique_id}")[0] == 404
    if "/" not in urllib.parse.unquote(unique_id):
        assert "content-security-policy" in headers


def test_a_link_to_one_call_opens_no_list_and_no_other_call(site: Site) -> None:
    shape = site.shapes["incoming-answered"]
    reader = Reader(site.url)
    assert reader.get(f"/calls?s={site.link(shape)}")[0] == 303
    assert reader.get(f"/calls.csv?s={site.link(shape)}")[0] == 303


def test_every_answer_forbids_what_a_page_of_secrets_must(site: Site) -> None:
    shape = site.shapes["incoming-answered"]
    anna = logged_in(site, "anna")
    paths = [*routes_of(shape.unique_id)[:1], *routes_of(shape.unique_id)[3:]]
    asked = [f"{path}?s={site.link(shape)}" for path in paths] + [
        "/calls",
        "/calls.csv",
        "/calls/login",
        "/call/details/x",
    ]
    for path in asked:
        _, _, headers = anna.get(path)
        assert "default-src 'none'" in headers["content-security-policy"], path
        assert "unsafe" not in headers["content-security-policy"]
        assert "frame-ancestors 'none'" in headers["content-security-policy"]
        assert headers["x-frame-options"] == "DENY"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["x-robots-tag"].startswith("noindex")
        assert headers["x-content-type-options"] == "nosniff"
        assert "no-store" in headers["cache-control"]


def test_no_secret_is_in_any_answer(site: Site) -> None:
    anna = logged_in(site, "anna")
    for shape in site.shapes.values():
        office = site.enterprises[shape.enterprise]
        for path in routes_of(shape.unique_id)[:1] + routes_of(shape.unique_id)[3:]:
            status, body, _ = anna.get(f"{path}?e={shape.enterprise}")
            assert status == 200, path
            assert office.token.encode() not in body
            assert b"SECRET" not in body


def test_the_api_says_all_that_the_page_says(site: Site) -> None:
    shape = site.shapes["incoming-attended-transfer"]
    bearer = Reader(site.url, site.bearers[shape.enterprise])
    told = json.loads(bearer.get(f"/api/calls/{shape.unique_id}")[1])
    assert (told["direction"], told["result"]) == ("incoming", "answered")
    assert len(told["events"]) + len(told["actions"]) == shape.n_records
    assert all(action["cause"] for action in told["actions"] if action["op"] != "skip")
    assert told["events"][0]["body"]["Token"] == "***"
    assert told["facts"]["Предприятие"].startswith(shape.enterprise)
    assert [leg["who"] for leg in told["legs"]] == ["Клиент", "151", "152", "152"]
    assert [change["after"] for event in told["events"] for change in event["changes"] if change["field"] == "завершён"] == ["да"]
    log = bearer.get(f"/api/calls/{shape.unique_id}/export.log")[1].decode()
    assert log.count("|AST|") == len(told["events"])
    assert bearer.get(f"/api/calls/{shape.unique_id}/export.mmd")[1].startswith(b"sequenceDiagram\n")
    schema = json.loads(Reader(site.url).get("/schema/openapi.json")[1])
    assert {"/api/calls/{unique_id}", "/api/calls/{unique_id}/export.log", "/api/calls/{unique_id}/export.mmd"} <= set(
        schema["paths"]
    )
    assert not [path for path in schema["paths"] if "details" in path]


# The list and its login


def test_the_list_needs_a_login_and_shows_only_what_the_operator_may_see(site: Site) -> None:
    assert Reader(site.url).get("/calls")[0] == 303
    boris = logged_in(site, "boris")
    body = boris.get("/calls")[1].decode()
    assert set(re.findall(r"[?&]e=(\d+)", body)) == {"7001"}
    assert "7002" not in body
    assert set(re.findall(r"[?&]e=(\d+)", boris.get("/calls?enterprise=7002")[1].decode())) == set()
    everything = csv.DictReader(io.StringIO(logged_in(site, "anna").get("/calls.csv")[1].decode()))
    assert {row["enterprise"] for row in everything} == set(site.enterprises)


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("result=missed", "missed"),
        ("direction=outgoing", "outgoing"),
        ("number=%2B375+(29)+625-40-70", "client"),
        ("number=6254070", "client"),
        ("extension=151", "extension"),
        ("unsent=1", "none"),
        ("since=2099-01-01T00:00", "none"),
        ("until=2001-01-01T00:00", "none"),
    ],
)
def test_a_filter_keeps_what_it_says(site: Site, query: str, kept: str) -> None:
    anna = logged_in(site, "anna")
    everything = list(csv.DictReader(io.StringIO(anna.get("/calls.csv")[1].decode())))
    found = list(csv.DictReader(io.StringIO(anna.get(f"/calls.csv?{query}")[1].decode())))
    fits = {
        "missed": lambda row: row["result"] == "missed",
        "outgoing": lambda row: row["direction"] == "outgoing",
        "client": lambda row: row["client"] == "375296254070",
        "extension": lambda row: True,
        "none": lambda row: False,
    }[kept]
    assert len(found) < len(everything)
    assert all(fits(row) for row in found)
    if kept != "extension":
        assert len(found) == sum(fits(row) for row in everything)


def test_odd_queries_are_no_errors(site: Site) -> None:
    anna = logged_in(site, "anna")
    for query in (
        "since=x&until=%00&after=zz&direction=up&result=<b>",
        "after=1-2-3",
        "number=%27%22",
        "enterprise=%00",
        "extension=%00",
        "number=%00",
        "p=-1",
    ):
        assert anna.get(f"/calls?{query}")[0] == 200, query


def test_the_csv_holds_no_formula(site: Site) -> None:
    from callgram_details.lists import _harmless

    assert [_harmless(cell) for cell in ("=1+1", "+375", "-1", "@x", "151", "")] == [
        "'=1+1",
        "'+375",
        "'-1",
        "'@x",
        "151",
        "",
    ]


def test_a_masked_operator_sees_no_number_anywhere(site: Site) -> None:
    vera = logged_in(site, "vera")
    shape = next(shape for shape in site.shapes.values() if shape.enterprise == "7002")
    pages = ["/calls", "/calls.csv", *routes_of(shape.unique_id)[:1], *routes_of(shape.unique_id)[3:]]
    for path in pages:
        status, body, _ = vera.get(path)
        assert status == 200, path
        assert not re.search(r"625-?40-?70", body.decode()), path


def test_a_wrong_password_and_a_form_that_is_not_ours_are_refused(site: Site) -> None:
    reader = Reader(site.url)
    assert reader.log_in("anna", "wrong") == 403
    assert reader.log_in("nobody") == 403
    assert reader.get("/calls/login", {"login": "anna", "password": PASSWORD, "csrf": "x"})[0] == 403
    stranger = Reader(site.url)
    assert stranger.get("/calls/login", {"login": "anna", "password": PASSWORD})[0] == 403
    assert stranger.get("/calls")[0] == 303


def test_logging_out_needs_the_form_and_ends_the_session(site: Site) -> None:
    anna = logged_in(site, "anna")
    anna.get("/calls/logout", {"csrf": "x"})
    status, body, _ = anna.get("/calls")
    assert status == 200
    csrf = re.search(rb'name="csrf" value="([^"]+)"', body)
    assert csrf
    assert anna.get("/calls/logout", {"csrf": csrf[1].decode()})[0] == 303
    assert anna.get("/calls")[0] == 303


def test_the_session_cookie_is_for_this_server_and_no_script(site: Site) -> None:
    reader = Reader(site.url)
    _, form, _ = reader.get("/calls/login")
    csrf = re.search(rb'name="csrf" value="([^"]+)"', form)
    assert csrf
    told = {"login": "anna", "password": PASSWORD, "csrf": csrf[1].decode()}
    # By base_url the site is https: a browser would send a Secure cookie to https only.
    _, _, headers = reader.get("/calls/login", told)
    cookie = headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=lax" in cookie.lower()
    assert "Secure" in cookie
    assert headers["location"] == "/calls"


def test_after_the_login_nobody_is_sent_elsewhere(site: Site) -> None:
    for place in ("//evil.example", "https://evil.example", "a=1 \r\nX: y", "result=missed"):
        reader = Reader(site.url)
        _, form, _ = reader.get("/calls/login")
        csrf = re.search(rb'name="csrf" value="([^"]+)"', form)
        assert csrf
        told = {"login": "anna", "password": PASSWORD, "csrf": csrf[1].decode(), "next": place}
        assert reader.get("/calls/login", told)[2]["location"].startswith("/calls")
