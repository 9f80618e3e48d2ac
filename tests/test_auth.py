"""The token: fetched when needed, renewed in time, shared, never shown."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs

import pytest
import requests

from api_pipeline.auth import Client, TokenAuth, TokenRefused, TokenUnavailable
from api_pipeline.transport import Transport
from tests.scripted_server import TOKEN_PATH, FakeTime, Reply, ScriptedServer, closed_port, token

SECRET = "s3cret/with+signs&="


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A token endpoint."""
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def transport() -> Iterator[Transport]:
    """A transport with a short timeout."""
    sender = Transport(user_agent="csc-api-pipeline/test", timeout=5)
    yield sender
    sender.close()


@pytest.fixture
def time() -> FakeTime:
    """A clock that stands still."""
    return FakeTime()


@pytest.fixture
def auth(server: ScriptedServer, transport: Transport, time: FakeTime) -> TokenAuth:
    """The token of the scripted endpoint."""
    client = Client(server.url(TOKEN_PATH), "the-client", SECRET, "api://x/.default")
    return TokenAuth(transport, client, clock=time.clock, wall=time.wall)


def test_the_token_is_asked_for_as_the_standard_says(auth: TokenAuth, server: ScriptedServer) -> None:
    """Nothing is fetched before it is needed; then a form with the four fields is posted, once."""
    assert server.requests == []
    assert auth.token() == auth.token() == "token-1"
    (seen,) = server.seen(TOKEN_PATH)
    assert seen.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert parse_qs(seen.body.decode(), strict_parsing=True) == {
        "grant_type": ["client_credentials"],
        "client_id": ["the-client"],
        "client_secret": [SECRET],
        "scope": ["api://x/.default"],
    }


def test_netrc_replaces_neither_header(
    auth: TokenAuth,
    server: ScriptedServer,
    transport: Transport,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With an entry for the host, the token request stays without a login and the other keeps its bearer."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password something\n", encoding="ascii")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    transport.post(server.url("/x"), b"[]", headers={}, auth=auth)
    assert "Authorization" not in server.seen(TOKEN_PATH)[0].headers
    assert server.seen("/x")[0].headers["Authorization"] == "Bearer token-1"


@pytest.mark.parametrize(
    ("expires_in", "good_for"),
    [
        (3600, 3540),
        ("3600", 3540),
        (100, 80),
        (0, 1),
        (-5, 1),
        (None, 240),
        ("soon", 240),
        (True, 240),
        ("inf", 240),
        ([], 240),
    ],
)
def test_a_token_is_renewed_before_it_expires(
    auth: TokenAuth, server: ScriptedServer, time: FakeTime, expires_in: object, good_for: float
) -> None:
    """A minute, or a fifth of its life if that is less, before the end; text and nonsense are coped with."""
    server.play(token(7, expires_in), path=TOKEN_PATH)
    assert auth.token() == "token-7"
    time.now += good_for - 0.5
    assert auth.token() == "token-7"
    time.now += 0.5
    assert auth.token() == "token-1"


def test_a_token_without_a_life_is_used(auth: TokenAuth, server: ScriptedServer) -> None:
    """A reply without expires_in is a token all the same."""
    server.play(Reply(200, b'{"access_token": "abc"}'), path=TOKEN_PATH)
    assert auth.token() == "abc"


def test_only_one_of_several_workers_renews(auth: TokenAuth, server: ScriptedServer) -> None:
    """Workers that all had the same token refused cost one new token, not one each."""
    old = auth.token()
    ready = threading.Barrier(8)
    fresh: list[str] = []

    def work() -> None:
        ready.wait()
        auth.invalidate(old)
        fresh.append(auth.token())

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert fresh == ["token-2"] * 8
    assert len(server.seen(TOKEN_PATH)) == 2


@pytest.mark.parametrize("status", [400, 401, 403])
@pytest.mark.parametrize(
    ("body", "said", "remedy"),
    [
        (
            {"error": "invalid_client", "error_description": f"AADSTS7000222: {SECRET}"},
            ("invalid_client", "AADSTS7000222"),
            "expired",
        ),
        (
            {"error": "invalid_client", "error_description": "AADSTS7000215: x"},
            ("invalid_client",),
            "not its id",
        ),
        ({"error": "unauthorized_client", "error_description": "AADSTS700016: x"}, (), "CLIENT_ID"),
        ({"error": "invalid_scope"}, ("invalid_scope",), "SCOPE"),
        ({"error": f"{SECRET} in here"}, (), "CLIENT_SECRET"),
        ({"error": {"code": SECRET}}, (), "CLIENT_SECRET"),
        (SECRET, (), "TOKEN_ENDPOINT"),
        ([], (), "TOKEN_ENDPOINT"),
    ],
)
def test_a_refusal_is_final_and_says_what_to_check(
    auth: TokenAuth, server: ScriptedServer, status: int, body: object, said: tuple[str, ...], remedy: str
) -> None:
    """400, 401 and 403 end it: the error's code is told, nothing else of the reply."""
    server.play(Reply(status, json.dumps(body).encode()), path=TOKEN_PATH)
    with pytest.raises(TokenRefused) as caught:
        auth.token()
    assert caught.value.status == status
    assert caught.value.hop == "token"
    assert str(status) in caught.value.message
    assert all(word in caught.value.message for word in said)
    assert remedy in caught.value.remedy
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(302, headers={"Location": "http://127.0.0.1:9/login"}), 302),
        (Reply(404), 404),
        (Reply(408), 408),
        (Reply(429), 429),
        (Reply(500, b'{"error": "server_error"}'), 500),
        (Reply(503, headers={"Retry-After": "7"}), 503),
        (Reply(200, b"<!DOCTYPE html><html></html>", content_type="text/html"), 200),
        (Reply(200, b'{"access_tok'), 200),
        (Reply(200, b"[]"), 200),
        (Reply(200, b"{}"), 200),
        (Reply(200, b'{"access_token": ""}'), 200),
        (Reply(200, b'{"access_token": 5}'), 200),
        (Reply(200, b'{"access_token": "two words"}'), 200),
        (Reply(200, b'{"access_token": "a\\nb"}'), 200),
        (Reply(204), 204),
        (Reply(delivery="reset"), None),
        (Reply(body=b"x" * 50, delivery="cut"), None),
    ],
)
def test_anything_else_may_pass(
    auth: TokenAuth, server: ScriptedServer, reply: Reply, status: int | None
) -> None:
    """Every other failure is worth another attempt, and the next one can succeed."""
    server.play(reply, path=TOKEN_PATH)
    with pytest.raises(TokenUnavailable) as caught:
        auth.token()
    assert caught.value.status == status
    assert caught.value.retry_after == (7 if status == 503 else None)
    assert auth.token() == "token-1"


def test_an_endpoint_that_cannot_be_reached_names_the_hop(transport: Transport) -> None:
    """A refused port is a passing fault of tcp, not of the token."""
    auth = TokenAuth(transport, Client(f"http://127.0.0.1:{closed_port()}/t", "c", SECRET, "s"))
    with pytest.raises(TokenUnavailable) as caught:
        auth.token()
    assert caught.value.hop == "tcp"


def test_neither_secret_nor_token_is_shown(
    auth: TokenAuth, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """No repr, and no line of the log down to DEBUG, tells the secret or the token."""
    caplog.set_level(logging.DEBUG)
    auth.token()
    request = auth(requests.Request("POST", server.url("/x")).prepare())
    assert request.headers["Authorization"] == "Bearer token-1"
    shown = f"{caplog.text} {auth!r} {vars(auth)!r}"
    assert SECRET not in shown
    assert "token-1" not in shown
