"""Submitting a body: every line of the table of replies, with the attempts counted at the server."""

from __future__ import annotations

import json
import logging
import random
import socket
import ssl
import threading
import time as real_time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
import trustme

from api_pipeline.api import ApiClient, ApiConfig, Outcome, Verdict
from api_pipeline.config import Settings
from api_pipeline.setting_values import Secret
from tests.scripted_server import (
    CHILDREN_PATH,
    TOKEN_PATH,
    FakeTime,
    Reply,
    ScriptedServer,
    TinyProxy,
    accepted,
    closed_port,
    receipts,
    receipts_for,
    token,
)

BODY = b'[{"la_child_id": "1", "surname": "O\'Brien \xf0\x9f\x8e\x88"}, {"la_child_id": "2"}]'
CHILD = "O'Brien"
SECRET = "the-secret"
KEY = "the-supplier-key"
HTML = Reply(200, b"<!DOCTYPE html><html><body>Sign in</body></html>", content_type="text/html")
MakeClient = Callable[..., ApiClient]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """Token and children endpoints."""
    with ScriptedServer() as running:
        yield running


@pytest.fixture
def time() -> FakeTime:
    """A clock that moves only by waiting."""
    return FakeTime()


@pytest.fixture
def stop() -> threading.Event:
    """What Ctrl+C sets."""
    return threading.Event()


@pytest.fixture
def client(server: ScriptedServer, time: FakeTime, stop: threading.Event) -> Iterator[MakeClient]:
    """Makes clients of the scripted server; changes of the configuration are keyword arguments."""
    made: list[ApiClient] = []

    def make(
        *, deadline: float | None = None, wait: Callable[[float], object] | None = None, **changes: Any
    ) -> ApiClient:
        config = replace(config_for(server), **changes)
        made.append(
            ApiClient(
                config,
                stop=stop,
                deadline=deadline,
                clock=time.clock,
                wall=time.wall,
                wait=wait or time.wait,
                jitter=random.Random(1),
            )
        )
        return made[-1]

    yield make
    for each in made:
        each.close()


def config_for(server: ScriptedServer, host: str = "127.0.0.1") -> ApiConfig:
    """Return the configuration for a server, without pacing."""
    return ApiConfig(
        children_url=server.url(CHILDREN_PATH, host),
        token_endpoint=server.url(TOKEN_PATH, host),
        client_id="the-client",
        client_secret=Secret(SECRET),
        scope="the-scope",
        supplier_key=Secret(KEY),
        user_agent="csc-api-pipeline/test",
        max_retries=4,
        request_timeout=5,
        min_request_gap_ms=0,
    )


def posts(server: ScriptedServer) -> int:
    """Return how many submissions the server saw; all of them must have had the same bytes."""
    assert {seen.body for seen in server.seen()} <= {BODY}
    return len(server.seen())


# Replies that settle a body


def test_an_accepted_batch_brings_its_receipts(client: MakeClient, server: ScriptedServer) -> None:
    """A 200 with one receipt per record is the only success; the request carries what the API asks for."""
    outcome = client().submit(BODY, 2)
    assert (outcome.verdict, outcome.status, outcome.attempts) == (Verdict.ACCEPTED, 200, 1)
    assert len(outcome.receipts) == 2
    assert not outcome.unsure
    (seen,) = server.seen()
    assert seen.body == BODY
    assert seen.headers["Authorization"] == "Bearer token-1"
    assert seen.headers["SupplierKey"] == KEY
    assert seen.headers["Content-Type"] == "application/json"
    assert seen.headers["User-Agent"] == "csc-api-pipeline/test"


def test_receipts_apart_by_white_space_are_a_success(client: MakeClient, server: ScriptedServer) -> None:
    """What some gateways make of the array is accepted too."""
    server.play(Reply(200, "\n".join(receipts(2)).encode(), content_type="text/plain"))
    assert client().submit(BODY, 2).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("status", [400, 422])
def test_a_refusal_names_its_records(client: MakeClient, server: ScriptedServer, status: int) -> None:
    """A 400 or 422 is not repeated; the named records come with their reasons, the whole text beside them."""
    text = json.dumps({"[1].social_care_episodes[0].referral_source": ["not good"]})
    server.play(Reply(status, text.encode()))
    outcome = client().submit(BODY, 2)
    assert (outcome.verdict, outcome.status, outcome.attempts) == (Verdict.REFUSED, status, 1)
    assert list(outcome.refusals) == [1]
    assert outcome.reply_text == text
    assert "not good" not in outcome.reason
    assert posts(server) == 1


def test_a_refusal_may_name_nobody(client: MakeClient, server: ScriptedServer) -> None:
    """A 400 without an index is a refusal of the batch."""
    server.play(Reply(400, b'{"message": "The payload is malformed"}'))
    outcome = client().submit(BODY, 2)
    assert (outcome.verdict, outcome.refusals) == (Verdict.REFUSED, {})


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [(Reply(204), Verdict.EMPTY), (Reply(413, b"too large"), Verdict.TOO_LARGE)],
)
def test_204_and_413_are_not_repeated(
    client: MakeClient, server: ScriptedServer, reply: Reply, verdict: Verdict
) -> None:
    """No content and too large settle the batch at once, without doubt."""
    server.play(reply)
    outcome = client().submit(BODY, 2)
    assert (outcome.verdict, outcome.status, outcome.unsure) == (verdict, reply.status, False)
    assert posts(server) == 1


# Replies that end the run


@pytest.mark.parametrize(
    ("status", "hop", "check"),
    [
        (404, "la code", "LA_CODE"),
        (405, "api", "API_ENDPOINT"),
        (418, "api", "API_ENDPOINT"),
        (407, "proxy", "NTLM"),
        (304, "redirect", "portal"),
    ],
)
def test_what_cannot_pass_ends_the_run(
    client: MakeClient, server: ScriptedServer, status: int, hop: str, check: str
) -> None:
    """404 and the other 4xx are not repeated; the remedy says what to check."""
    server.play(Reply(status))
    outcome = client().submit(BODY, 2)
    assert (outcome.verdict, outcome.status, outcome.hop) == (Verdict.RUN_ENDED, status, hop)
    assert check in outcome.remedy
    assert not outcome.unsure
    assert posts(server) == 1


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_never_followed(client: MakeClient, server: ScriptedServer, status: int) -> None:
    """A redirect ends the run, although what it points to would answer with success."""
    server.play(Reply(status, headers={"Location": server.url("/login")}))
    outcome = client().submit(BODY, 2)
    assert (outcome.verdict, outcome.hop, outcome.unsure) == (Verdict.RUN_ENDED, "redirect", False)
    assert server.seen("/login") == []
    assert posts(server) == 1


# 401 and the token


def test_a_401_renews_the_token_once(client: MakeClient, server: ScriptedServer, time: FakeTime) -> None:
    """A token that was revoked is replaced, and the same body goes again at once."""
    server.play(Reply(401))
    outcome = client(max_retries=1).submit(BODY, 2)
    assert (outcome.verdict, outcome.attempts) == (Verdict.ACCEPTED, 2)
    assert [seen.headers["Authorization"] for seen in server.seen()] == ["Bearer token-1", "Bearer token-2"]
    assert posts(server) == 2
    assert time.waits == []


def test_a_second_401_in_a_row_ends_the_run(client: MakeClient, server: ScriptedServer) -> None:
    """A fresh token that is refused too cannot be helped."""
    server.play(Reply(401), Reply(401))
    outcome = client().submit(BODY, 2)
    assert (outcome.verdict, outcome.status, outcome.hop) == (Verdict.RUN_ENDED, 401, "token")
    assert (posts(server), len(server.seen(TOKEN_PATH))) == (2, 2)
    assert not outcome.unsure


def test_401s_that_are_not_in_a_row_are_renewed_each_time(client: MakeClient, server: ScriptedServer) -> None:
    """Between two of them the token was good, so the second is a new case."""
    server.play(Reply(401), Reply(429), Reply(401), accepted())
    assert client().submit(BODY, 2).verdict is Verdict.ACCEPTED
    assert len(server.seen(TOKEN_PATH)) == 3


def test_a_token_that_expires_during_the_run_is_renewed(
    client: MakeClient, server: ScriptedServer, time: FakeTime
) -> None:
    """The token is renewed before it expires, also when the expiry falls into a wait between attempts."""
    server.play(token(8, expires_in=100), token(9, expires_in=100), path=TOKEN_PATH)
    server.play(accepted(), Reply(429, headers={"Retry-After": "90"}), accepted())
    sender = client()
    assert sender.submit(BODY, 2).verdict is Verdict.ACCEPTED
    assert sender.submit(BODY, 2).verdict is Verdict.ACCEPTED
    used = [seen.headers["Authorization"] for seen in server.seen()]
    assert used == ["Bearer token-8", "Bearer token-8", "Bearer token-9"]
    assert time.waits == [90]


@pytest.mark.parametrize("status", [400, 401, 403])
def test_a_refused_token_ends_the_run_at_once(
    client: MakeClient, server: ScriptedServer, status: int
) -> None:
    """The token endpoint's no is final, and no child's record leaves."""
    server.play(Reply(status, b'{"error": "invalid_client"}'), path=TOKEN_PATH)
    outcome = client().submit(BODY, 2)
    assert (outcome.verdict, outcome.hop, outcome.attempts) == (Verdict.RUN_ENDED, "token", 0)
    assert "CLIENT_SECRET" in outcome.remedy
    assert (posts(server), len(server.seen(TOKEN_PATH))) == (0, 1)


@pytest.mark.parametrize("reply", [Reply(500), Reply(404), Reply(302), HTML, Reply(delivery="reset")])
def test_a_token_is_asked_for_again(client: MakeClient, server: ScriptedServer, reply: Reply) -> None:
    """Any other failure of the token endpoint is retried; the posts of the body are not used up by it."""
    server.play(reply, reply, path=TOKEN_PATH)
    server.play(Reply(503), Reply(503))
    outcome = client(max_retries=3).submit(BODY, 2)
    assert (outcome.verdict, outcome.attempts) == (Verdict.ACCEPTED, 3)
    assert len(server.seen(TOKEN_PATH)) == 3


def test_no_token_after_all_attempts_ends_the_run(client: MakeClient, server: ScriptedServer) -> None:
    """Without a token no other batch would fare better."""
    server.play(*[Reply(503)] * 4, path=TOKEN_PATH)
    outcome = client().submit(BODY, 2)
    assert (outcome.verdict, outcome.hop, outcome.attempts) == (Verdict.RUN_ENDED, "token", 0)
    assert (posts(server), len(server.seen(TOKEN_PATH))) == (0, 4)


# 403


@pytest.mark.parametrize(
    ("body", "hop", "word"),
    [
        (HTML.body, "firewall", "firewall"),
        (b'{"statusCode": 403, "message": "Forbidden"}', "supplier key", "JSON"),
        (b"", "access", "403"),
    ],
)
def test_a_lasting_403_ends_the_run(
    client: MakeClient, server: ScriptedServer, time: FakeTime, body: bytes, hop: str, word: str
) -> None:
    """It is repeated with growing waits; then the run ends, telling the firewall from the API."""
    server.play(*[Reply(403, body)] * 7)
    outcome = client(max_retries=7).submit(BODY, 2)
    assert (outcome.verdict, outcome.status, outcome.hop) == (Verdict.RUN_ENDED, 403, hop)
    assert word in outcome.reason
    assert not outcome.unsure
    assert posts(server) == 7
    assert time.waits == [5, 10, 20, 40, 80, 120]


def test_a_403_may_say_how_long(client: MakeClient, server: ScriptedServer, time: FakeTime) -> None:
    """Retry-After is honoured for a 403, and afterwards the batch is taken."""
    server.play(Reply(403, headers={"Retry-After": "42"}))
    assert client().submit(BODY, 2).verdict is Verdict.ACCEPTED
    assert time.waits == [42]


def test_a_403_that_asks_for_too_much_ends_the_run(
    client: MakeClient, server: ScriptedServer, time: FakeTime
) -> None:
    """A wait of more than 300 seconds is not made."""
    server.play(Reply(403, headers={"Retry-After": "301"}))
    assert client().submit(BODY, 2).verdict is Verdict.RUN_ENDED
    assert (posts(server), time.waits) == (1, [])


# Failures that may pass


@pytest.mark.parametrize(
    ("reply", "unsure"),
    [
        (Reply(408), True),
        (Reply(429), False),
        (Reply(500), True),
        (Reply(502), True),
        (Reply(503), True),
        (Reply(504), True),
        (Reply(599), True),
        (Reply(201, receipts_for), True),
        (Reply(202), True),
        (HTML, True),
        (Reply(200), True),
        (Reply(200, b'{"receipts": []}'), True),
        (Reply(200, json.dumps(receipts(1)).encode()), True),
        (Reply(200, json.dumps(receipts(3)).encode()), True),
        (Reply(200, json.dumps(receipts(2)).encode()[:-20]), True),
        (Reply(200, receipts_for, delivery="cut"), True),
        (Reply(200, receipts_for, delivery="close"), True),
        (Reply(200, receipts_for, delivery="reset"), True),
    ],
)
def test_what_may_pass_is_repeated_and_then_given_up(
    client: MakeClient, server: ScriptedServer, time: FakeTime, reply: Reply, unsure: bool
) -> None:
    """The same bytes go as often as MAX_RETRIES says; the doubt is kept, or ended by a receipt list."""
    server.play(*[reply] * 4)
    sender = client()
    outcome = sender.submit(BODY, 2)
    assert (outcome.verdict, outcome.attempts, outcome.unsure) == (Verdict.GIVEN_UP, 4, unsure)
    assert posts(server) == 4
    assert len(time.waits) == 3
    server.play(reply)
    outcome = sender.submit(BODY, 2)
    assert (outcome.verdict, outcome.attempts, outcome.unsure) == (Verdict.ACCEPTED, 2, False)


def test_a_slow_reply_is_unsure(client: MakeClient, server: ScriptedServer) -> None:
    """A timeout while waiting for the reply is repeated and leaves doubt."""
    server.play(*[accepted(delay=0.2)] * 2)
    outcome = client(request_timeout=0.1, max_retries=2).submit(BODY, 2)
    assert (outcome.verdict, outcome.hop, outcome.unsure) == (Verdict.GIVEN_UP, "timeout", True)
    assert posts(server) == 2


def test_a_refused_port_is_sure(client: MakeClient, time: FakeTime) -> None:
    """A connection that never opened is repeated and leaves no doubt."""
    url = f"http://127.0.0.1:{closed_port()}{CHILDREN_PATH}"
    outcome = client(children_url=url).submit(BODY, 2)
    assert (outcome.verdict, outcome.status, outcome.hop) == (Verdict.GIVEN_UP, None, "tcp")
    assert (outcome.unsure, len(time.waits)) == (False, 3)


def test_an_unknown_name_is_sure(client: MakeClient, time: FakeTime, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve is repeated and leaves no doubt."""
    resolve = socket.getaddrinfo

    def only_numbers(host: str, *args: Any, **options: Any) -> Any:
        if host == "receiver.test":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve(host, *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", only_numbers)
    outcome = client(children_url=f"http://receiver.test{CHILDREN_PATH}").submit(BODY, 2)
    assert (outcome.verdict, outcome.hop, outcome.unsure) == (Verdict.GIVEN_UP, "dns", False)
    assert len(time.waits) == 3


@pytest.mark.parametrize(
    ("last", "verdict"),
    [
        (Reply(400), Verdict.REFUSED),
        (Reply(204), Verdict.EMPTY),
        (Reply(413), Verdict.TOO_LARGE),
        (Reply(404), Verdict.RUN_ENDED),
        (Reply(429), Verdict.GIVEN_UP),
        (Reply(403), Verdict.RUN_ENDED),
    ],
)
def test_only_a_receipt_list_ends_a_doubt(
    client: MakeClient, server: ScriptedServer, last: Reply, verdict: Verdict
) -> None:
    """After an attempt that may have been taken, a sure failure leaves the body unsure."""
    server.play(Reply(504), last)
    outcome = client(max_retries=2).submit(BODY, 2)
    assert (outcome.verdict, outcome.unsure) == (verdict, True)


def test_a_doubt_outlives_a_connection_that_never_opened(
    client: MakeClient, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the name no longer resolves, nothing is sent, and what was sent before stays unsure."""
    resolve = socket.getaddrinfo
    gone = threading.Event()

    def until_gone(host: str, *args: Any, **options: Any) -> Any:
        if host == "localhost" and gone.is_set():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return resolve("127.0.0.1", *args, **options)

    monkeypatch.setattr(socket, "getaddrinfo", until_gone)
    server.play(Reply(504, headers={"Connection": "close"}, then=gone.set))
    outcome = client(children_url=server.url(CHILDREN_PATH, "localhost")).submit(BODY, 2)
    assert (outcome.verdict, outcome.hop, outcome.status) == (Verdict.GIVEN_UP, "dns", None)
    assert (outcome.unsure, outcome.attempts, posts(server)) == (True, 4, 1)


def test_a_kept_connection_that_went_stale_is_just_repeated(
    client: MakeClient, server: ScriptedServer
) -> None:
    """A reset on a connection that was used before costs one attempt and nothing else."""
    server.play(accepted(), Reply(delivery="reset"))
    sender = client()
    sender.submit(BODY, 2)
    outcome = sender.submit(BODY, 2)
    assert (outcome.verdict, outcome.attempts, outcome.unsure) == (Verdict.ACCEPTED, 2, False)
    first, second, third = [seen.connection for seen in server.seen()]
    assert first == second != third


# Waiting


def test_waits_grow_to_a_minute_and_are_spread(
    client: MakeClient, server: ScriptedServer, time: FakeTime
) -> None:
    """1, 2, 4 ... 60 seconds are the upper ends; the random part never more than halves them."""
    server.play(*[Reply(503)] * 9)
    client(max_retries=9).submit(BODY, 2)
    tops = [1, 2, 4, 8, 16, 32, 60, 60]
    assert len(time.waits) == len(tops)
    assert all(top / 2 <= wait <= top for wait, top in zip(time.waits, tops, strict=True))
    assert time.waits != tops


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_is_obeyed(
    client: MakeClient, server: ScriptedServer, time: FakeTime, status: int, as_date: bool
) -> None:
    """Seconds and dates are waited for exactly, up to 300 seconds."""
    header = formatdate(time.wall() + 300, usegmt=True) if as_date else "300"
    server.play(Reply(status, headers={"Retry-After": header}))
    assert client().submit(BODY, 2).verdict is Verdict.ACCEPTED
    assert time.waits == [300]


def test_a_malformed_retry_after_counts_as_none(
    client: MakeClient, server: ScriptedServer, time: FakeTime
) -> None:
    """Nonsense in the header leads to the ordinary wait."""
    server.play(Reply(429, headers={"Retry-After": "soon"}))
    assert client().submit(BODY, 2).verdict is Verdict.ACCEPTED
    assert 0.5 <= time.waits[0] <= 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_long_retry_after_gives_the_batch_up(
    client: MakeClient, server: ScriptedServer, time: FakeTime, status: int
) -> None:
    """More than 300 seconds are not waited for."""
    server.play(Reply(status, headers={"Retry-After": "301"}))
    outcome = client().submit(BODY, 2)
    assert outcome.verdict is Verdict.GIVEN_UP
    assert "301" in outcome.reason
    assert (posts(server), time.waits) == (1, [])


@pytest.mark.parametrize("status", [403, 429, 503])
def test_no_wait_goes_past_the_deadline(
    client: MakeClient, server: ScriptedServer, time: FakeTime, status: int
) -> None:
    """A batch that would have to wait longer than the run may last is given up."""
    server.play(*[Reply(status, headers={"Retry-After": "60"})] * 4)
    outcome = client(deadline=time.now + 100).submit(BODY, 2)
    assert outcome.verdict is Verdict.GIVEN_UP
    assert "deadline" in outcome.reason
    assert (posts(server), time.waits) == (2, [60])


def test_submissions_keep_their_distance(client: MakeClient, server: ScriptedServer, time: FakeTime) -> None:
    """MIN_REQUEST_GAP_MS lies between the starts of submissions, retries and renewals included."""
    starts: list[float] = []
    noted: dict[str, Any] = {"then": lambda: starts.append(time.now)}
    server.play(
        accepted(**noted),
        Reply(401, **noted),
        Reply(429, headers={"Retry-After": "0"}, **noted),
        accepted(**noted),
        accepted(**noted),
    )
    sender = client(min_request_gap_ms=400)
    for _ in range(3):
        assert sender.submit(BODY, 2).verdict is Verdict.ACCEPTED
    assert [round(start - 1000, 3) for start in starts] == [0, 0.4, 0.8, 1.2, 1.6]


def test_time_spent_on_a_request_counts_towards_the_distance(
    client: MakeClient, server: ScriptedServer, time: FakeTime
) -> None:
    """The gap is between starts: after a request that took longer there is nothing to wait for."""

    def slowly() -> None:
        time.now += 0.5

    server.play(accepted(then=slowly), accepted())
    sender = client(min_request_gap_ms=400)
    sender.submit(BODY, 2)
    sender.submit(BODY, 2)
    assert time.waits == []


def test_fetching_a_token_is_no_part_of_the_distance(
    client: MakeClient, server: ScriptedServer, time: FakeTime
) -> None:
    """A submission starts when its token is there, and the next one keeps its distance from that moment."""
    starts: list[float] = []

    def slowly() -> None:
        time.now += 1

    server.play(replace(token(), then=slowly), path=TOKEN_PATH)
    server.play(*[accepted(then=lambda: starts.append(time.now))] * 2)
    sender = client(min_request_gap_ms=400)
    sender.submit(BODY, 2)
    sender.submit(BODY, 2)
    assert [round(start - 1000, 3) for start in starts] == [1, 1.4]


def test_workers_share_the_pace(server: ScriptedServer) -> None:
    """However many threads submit, their starts keep the distance."""
    starts: list[float] = []
    server.play(*[accepted(then=lambda: starts.append(real_time.monotonic()))] * 6)
    with ApiClient(replace(config_for(server), min_request_gap_ms=40)) as sender:
        outcomes = in_threads(6, lambda: sender.submit(BODY, 2))
    assert [outcome.verdict for outcome in outcomes] == [Verdict.ACCEPTED] * 6
    assert len(server.seen(TOKEN_PATH)) == 1
    # From the first to the last there are five gaps; single ones may shrink on a busy machine.
    assert max(starts) - min(starts) >= 5 * 0.04 - 0.03


def test_a_429_slows_all_workers_down(client: MakeClient, server: ScriptedServer, time: FakeTime) -> None:
    """A wait that the API asked one worker for is kept by another that starts meanwhile."""
    server.play(Reply(429, headers={"Retry-After": "50"}))
    sender: ApiClient
    second: list[float] = []

    def wait(seconds: float) -> None:
        if threading.current_thread() is threading.main_thread():
            # While the first worker waits, a second one begins.
            assert in_threads(1, lambda: sender.submit(BODY, 2))[0].verdict is Verdict.ACCEPTED
        else:
            second.append(seconds)
        time.wait(seconds)

    sender = client(wait=wait)
    assert sender.submit(BODY, 2).verdict is Verdict.ACCEPTED
    assert second == [50]


def in_threads(number: int, action: Callable[[], Outcome]) -> list[Outcome]:
    """Do something in several threads at once and return what each got."""
    with ThreadPoolExecutor(number) as pool:
        return [future.result() for future in [pool.submit(action) for _ in range(number)]]


# Stopping


@pytest.mark.parametrize(("reply", "unsure"), [(Reply(503), True), (Reply(429), False)])
def test_a_stop_ends_the_waiting(
    client: MakeClient, server: ScriptedServer, stop: threading.Event, reply: Reply, unsure: bool
) -> None:
    """Asked to stop during a wait, the client sends nothing more and keeps the doubt that there was."""
    server.play(reply)
    outcome = client(wait=lambda _seconds: stop.set()).submit(BODY, 2)
    assert (outcome.verdict, outcome.unsure, outcome.attempts) == (Verdict.INTERRUPTED, unsure, 1)
    assert posts(server) == 1


def test_a_stop_wakes_a_real_wait(server: ScriptedServer) -> None:
    """The wait that is used outside of tests ends at once when the event is set."""
    server.play(Reply(429, headers={"Retry-After": "250"}))
    stop = threading.Event()
    with ApiClient(config_for(server), stop=stop) as sender:
        timer = threading.Timer(0.1, stop.set)
        timer.start()
        begun = real_time.monotonic()
        assert sender.submit(BODY, 2).verdict is Verdict.INTERRUPTED
        assert real_time.monotonic() - begun < 5
        timer.join()


def test_the_request_under_way_is_finished(
    client: MakeClient, server: ScriptedServer, stop: threading.Event
) -> None:
    """A stop while the API is at work still brings its receipts."""
    server.play(accepted(then=stop.set))
    assert client().submit(BODY, 2).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize("status", [401, 503])
def test_after_a_stop_nothing_is_sent(
    client: MakeClient, server: ScriptedServer, stop: threading.Event, time: FakeTime, status: int
) -> None:
    """No repetition, no renewal and no new batch begins once the stop is asked for."""
    server.play(Reply(status, then=stop.set))
    sender = client()
    assert sender.submit(BODY, 2).verdict is Verdict.INTERRUPTED
    assert sender.submit(BODY, 2).attempts == 0
    assert (posts(server), len(server.seen(TOKEN_PATH)), time.waits) == (1, 1, [])


# Certificates and proxies


def test_an_untrusted_certificate_ends_the_run(client: MakeClient, time: FakeTime, tmp_path: Path) -> None:
    """It would not be trusted a minute later either; with CA_BUNDLE it is."""
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    with ScriptedServer(context) as server:
        config = config_for(server, "localhost")
        urls = {"children_url": config.children_url, "token_endpoint": config.token_endpoint}
        outcome = client(**urls).submit(BODY, 2)
        assert (outcome.verdict, outcome.hop, outcome.unsure) == (Verdict.RUN_ENDED, "tls", False)
        assert "CA_BUNDLE" in outcome.remedy
        assert (posts(server), time.waits) == (0, [])
        trusting = client(**urls, ca_bundle=tmp_path / "ca.pem")
        assert trusting.submit(BODY, 2).verdict is Verdict.ACCEPTED


def test_a_proxy_that_wants_a_login_ends_the_run(
    client: MakeClient, server: ScriptedServer, time: FakeTime
) -> None:
    """A 407 does not pass by waiting: the remedy names the ways round it."""
    with TinyProxy(server.port, status=407) as proxy:
        address = Secret(f"http://user:hush@{proxy.address}")
        outcome = client(children_url="https://receiver.test/x", https_proxy=address).submit(BODY, 2)
    assert (outcome.verdict, outcome.hop, outcome.unsure) == (Verdict.RUN_ENDED, "proxy", False)
    assert "NTLM" in outcome.remedy
    assert "hush" not in repr(outcome)
    assert time.waits == []


def test_the_routes_are_told(client: MakeClient) -> None:
    """Which proxy is used for which endpoint, and why, can be shown without its password."""
    address = Secret("http://user:hush@proxy.test:8080")
    routes = client(children_url="https://receiver.test/x", https_proxy=address).routes()
    assert str(routes["token"]) == "no proxy (loopback)"
    assert str(routes["children"]) == "proxy http://proxy.test:8080 (HTTPS_PROXY)"


# The probe


@pytest.mark.parametrize("status", [200, 204, 400, 422])
def test_the_probe_passes(client: MakeClient, server: ScriptedServer, status: int) -> None:
    """Whatever a validated empty array is answered with is a pass; it is all that is sent."""
    server.play(Reply(status, b"[]"))
    result = client().probe()
    assert (result.passed, result.status, result.hop) == (True, status, "")
    assert [seen.body for seen in server.seen()] == [b"[]"]
    assert server.seen()[0].headers["SupplierKey"] == KEY


@pytest.mark.parametrize(
    ("reply", "hop", "check"),
    [
        (Reply(401), "token", "SCOPE"),
        (Reply(403, b'{"message": "Forbidden"}'), "supplier key", "SUPPLIER_KEY"),
        (Reply(403, b"<html></html>"), "firewall", "USER_AGENT"),
        (Reply(404), "la code", "LA_CODE"),
        (Reply(302, headers={"Location": "/login"}), "redirect", "portal"),
        (HTML, "reply", "portal"),
        (Reply(407), "proxy", "Px"),
        (Reply(429), "api", "MIN_REQUEST_GAP_MS"),
        (Reply(503), "api", "service"),
        (Reply(delivery="reset"), "connection", ""),
    ],
)
def test_the_probe_names_the_hop(
    client: MakeClient, server: ScriptedServer, time: FakeTime, reply: Reply, hop: str, check: str
) -> None:
    """What fails is named with what to check, after one attempt and no waiting."""
    server.play(reply)
    result = client().probe()
    assert (result.passed, result.hop) == (False, hop)
    assert check in result.remedy
    assert (len(server.seen()), time.waits) == (1, [])


@pytest.mark.parametrize("status", [401, 503])
def test_the_probe_names_the_token(client: MakeClient, server: ScriptedServer, status: int) -> None:
    """Without a token the children endpoint is not even asked."""
    server.play(Reply(status), path=TOKEN_PATH)
    result = client().probe()
    assert (result.passed, result.hop, result.status) == (False, "token", status)
    assert server.seen() == []


# What is told


def test_the_log_tells_each_retry_and_no_secret(
    client: MakeClient, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """One line for each retry; no body, reply, key, secret or token, down to DEBUG, in logs or outcomes."""
    caplog.set_level(logging.DEBUG)
    server.play(Reply(503, BODY), Reply(401, BODY), Reply(200, BODY), Reply(400, BODY))
    outcome = client().submit(BODY, 2)
    assert outcome.verdict is Verdict.REFUSED
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 2
    assert "503" in warnings[0].getMessage()
    text = f"{caplog.text} {outcome!r}"
    assert not any(word in text for word in (CHILD, "token-1", "token-2", SECRET, KEY))
    assert CHILD in outcome.reply_text


def test_the_settings_fill_the_configuration() -> None:
    """The client takes its part of the settings by their names, and shows no secret."""
    settings = Settings(
        api_endpoint="https://receiver.test/1/",
        la_code="999",
        client_secret=Secret(SECRET),
        supplier_key=Secret(KEY),
        max_retries=2,
    )
    config = ApiConfig.from_settings(settings)
    assert config.children_url == "https://receiver.test/1/children_social_care_data/999/children"
    assert (config.max_retries, config.client_secret.reveal()) == (2, SECRET)
    assert SECRET not in repr(config)
    assert KEY not in repr(config)
