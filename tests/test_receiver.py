"""The receiver keeps the API's side of the contract, and each fault looks on the wire as its kind says."""

from __future__ import annotations

import http.client
import json
import re
import threading
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

from api_pipeline.errors import ConfigError
from api_pipeline.faults import ANY_STATUS, FAULTS, Fault, FaultQueue, parse_fault
from api_pipeline.receiver import LIVE_BASE_PATH, Receiver, describe, serve_forever

RECEIPT = re.compile(
    r"\d{4}-\d\d-\d\d_\d\d:\d\d:\d\d\.\d{2,7}_[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.json"
)


class Client:
    """A plain API client over one session; nothing of the package's own sending code."""

    def __init__(self, receiver: Receiver) -> None:
        self.receiver = receiver
        self.session = requests.Session()
        self.session.trust_env = False
        self.headers: dict[str, str | None] = {
            "SupplierKey": receiver.settings()["SUPPLIER_KEY"],
            "Content-Type": "application/json",
        }

    def token(self, **changes: str | None) -> requests.Response:
        """Ask for a token; a change of None leaves the field out."""
        settings = self.receiver.settings()
        form = {
            "grant_type": "client_credentials",
            "client_id": settings["CLIENT_ID"],
            "client_secret": settings["CLIENT_SECRET"],
            "scope": settings["SCOPE"],
        }
        form.update(changes)  # type: ignore[arg-type]  # requests leaves out what is None
        return self.session.post(self.receiver.token_url, data=form, timeout=5, allow_redirects=False)

    def sign_in(self) -> Client:
        """Get a token and use it from now on."""
        self.headers["Authorization"] = "Bearer " + self.token().json()["access_token"]
        return self

    def post(self, body: Any, url: str = "", timeout: float = 5, **headers: str | None) -> requests.Response:
        """Post ``body``, bytes as they are and anything else as JSON."""
        data = body if isinstance(body, bytes) else json.dumps(body, ensure_ascii=False).encode()
        merged = self.headers | {name.replace("_", "-"): text for name, text in headers.items()}
        return self.session.post(
            url or self.receiver.children_url,
            data=data,
            headers=merged,
            timeout=timeout,
            allow_redirects=False,
        )


class Clock:
    """A clock that stands still until it is told otherwise."""

    def __init__(self) -> None:
        self.now = 1_750_000_000.123456

    def __call__(self) -> float:
        """Return the seconds since the epoch."""
        return self.now


def child(name: str = "child-1", **fields: Any) -> dict[str, Any]:
    """One child by that id, with a name and whatever else is asked for."""
    return {"la_child_id": name, "child_details": {"surname": "Fake"}, **fields}


def children(count: int) -> list[dict[str, Any]]:
    """That many children, child-0 and on."""
    return [child(f"child-{number}") for number in range(count)]


@pytest.fixture
def clock() -> Clock:
    """A clock that the test moves."""
    return Clock()


@pytest.fixture
def receiver(clock: Clock) -> Iterator[Receiver]:
    """A running receiver that keeps bodies."""
    with Receiver(clock=clock, keep_bodies=True) as running:
        yield running


@pytest.fixture
def client(receiver: Receiver) -> Iterator[Client]:
    """A client with a token."""
    made = Client(receiver).sign_in()
    with made.session:
        yield made


# --- The token endpoint ----------------------------------------------------------------------------------


def test_token_is_granted_to_the_right_client(client: Client) -> None:
    """The right form gets a bearer token with its lifetime in seconds."""
    reply = client.token()
    assert reply.status_code == 200
    assert set(reply.json()) == {"access_token", "token_type", "expires_in"}
    assert (reply.json()["token_type"], reply.json()["expires_in"]) == ("Bearer", 3600)


@pytest.mark.parametrize(
    ("changes", "status", "error"),
    [
        ({"grant_type": "password"}, 400, "unsupported_grant_type"),
        ({"grant_type": None}, 400, "invalid_request"),
        ({"client_id": None}, 400, "invalid_request"),
        ({"client_secret": None}, 400, "invalid_request"),
        ({"scope": None}, 400, "invalid_request"),
        ({"client_id": "other"}, 401, "invalid_client"),
        ({"client_secret": "other"}, 401, "invalid_client"),
        ({"scope": "other"}, 400, "invalid_scope"),
    ],
)
def test_token_refusals_speak_oauth(
    client: Client, changes: dict[str, str | None], status: int, error: str
) -> None:
    """Each fault of a token request has the status and the error code of RFC 6749."""
    reply = client.token(**changes)
    assert (reply.status_code, reply.json()["error"]) == (status, error)


def test_token_request_must_be_a_form(client: Client) -> None:
    """The same values as JSON are no token request."""
    reply = client.session.post(client.receiver.token_url, json={"grant_type": "x"}, timeout=5)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_request")


def test_token_expires_by_the_receivers_clock(client: Client, clock: Clock) -> None:
    """A token works to the end of its lifetime and not a moment longer; a new one works."""
    clock.now += 3599
    assert client.post([child()]).status_code == 200
    clock.now += 1
    refused = client.post([child()])
    assert refused.status_code == 401
    assert "expired" in refused.json()["message"]
    assert client.sign_in().post([child()]).status_code == 200


def test_revoked_tokens_are_refused(client: Client) -> None:
    """After revoke_tokens() the old token is dead and a new one is not."""
    client.receiver.revoke_tokens()
    assert client.post([child()]).status_code == 401
    assert client.sign_in().post([child()]).status_code == 200


# --- The children endpoint: what is refused --------------------------------------------------------------


@pytest.mark.parametrize("authorization", [None, "Bearer wrong", "Bearer ", "Basic Zm9vOmJhcg=="])
def test_without_a_valid_bearer_nothing_is_taken(client: Client, authorization: str | None) -> None:
    """No token, a wrong one and another scheme all get a 401 that says invalid_token."""
    reply = client.post([child()], Authorization=authorization)
    assert reply.status_code == 401
    assert reply.json()["statusCode"] == 401
    assert "invalid_token" in reply.headers["WWW-Authenticate"]
    assert client.receiver.children == {}


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize(("key", "word"), [(None, "missing"), ("wrong", "invalid")])
def test_wrong_supplier_key_is_refused_as_json(status: Any, key: str | None, word: str) -> None:
    """A missing or wrong supplier key gets the chosen status and a message that names the key."""
    with Receiver(supplier_key_status=status) as receiver:
        client = Client(receiver).sign_in()
        with client.session:
            reply = client.post([child()], SupplierKey=key)
    assert reply.status_code == status
    assert word in reply.json()["message"]
    assert "SupplierKey" in reply.json()["message"]
    assert receiver.children == {}


@pytest.mark.parametrize(
    "path",
    [
        "/children-in-social-care-data-receiver-test/1/children_social_care_data/998/children",
        "/children-in-social-care-data-receiver-test/1/children_social_care_data/999/child",
        "/children-in-social-care-data-receiver-test/1/children_social_care_data/999/children/",
        "/children-in-social-care-data-receiver-test/2/children_social_care_data/999/children",
        "/",
    ],
)
def test_wrong_address_is_404(client: Client, path: str) -> None:
    """Another authority's code and any other path are not found."""
    assert client.post([child()], client.receiver.root_url + path).status_code == 404
    assert client.receiver.children == {}


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "HEAD"])
def test_only_post_is_allowed(client: Client, method: str) -> None:
    """There is no GET and nothing else either; the reply says what is allowed."""
    for url in (client.receiver.children_url, client.receiver.token_url):
        reply = client.session.request(method, url, headers=client.headers, timeout=5)
        assert (reply.status_code, reply.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": None},
        {"Content-Encoding": "gzip"},
    ],
)
def test_other_content_types_are_415(client: Client, headers: dict[str, str | None]) -> None:
    """Only plain JSON in UTF-8 is read."""
    client.headers.update(headers)
    assert client.post([child()]).status_code == 415


def test_charset_utf8_may_be_named(client: Client) -> None:
    """The charset may be spelt out, in any letter case."""
    assert client.post([child()], Content_Type="Application/JSON; charset=UTF-8").status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1,",
        b'["\xff"]',
        b"{}",
        b'"text"',
        b"null",
        b"[]",
        json.dumps(children(101)).encode(),
    ],
)
def test_what_is_no_array_of_1_to_100_is_400_without_an_index(client: Client, body: bytes) -> None:
    """Not JSON, not UTF-8, not an array, an empty array and 101 records are refused as a whole."""
    reply = client.post(body)
    assert reply.status_code == 400
    assert list(reply.json()["errors"]) == [""]
    assert client.receiver.records_taken == 0


def test_faults_are_named_by_record_index_and_path(client: Client) -> None:
    """Every structural fault is keyed by [index] and path, all at once, and nothing is taken."""
    bad_sex = child("b", child_details={"sex": "X"})
    bad_date = child(
        "c", social_care_episodes=[{"social_care_episode_id": "e", "referral_date": "2024-02-30"}]
    )
    reply = client.post([child("a"), bad_sex, bad_date, {"child_details": {}}, "text"])
    assert reply.status_code == 400
    errors = reply.json()["errors"]
    assert {"[1].child_details.sex", "[2].social_care_episodes[0].referral_date"} < set(errors)
    assert {re.match(r"\[(\d)\]", key).group(1) for key in errors} == set("1234")  # type: ignore[union-attr]
    assert all(messages and isinstance(messages[0], str) for messages in errors.values())
    assert client.receiver.children == {}


def test_duplicate_key_is_named_by_its_record(client: Client) -> None:
    """A fault of the text inside one record names that record."""
    reply = client.post(b'[{"la_child_id":"a"},{"la_child_id":"b","la_child_id":"c"}]')
    assert reply.status_code == 400
    assert list(reply.json()["errors"]) == ["[1].la_child_id"]


def test_codes_and_unknown_fields_do_not_refuse(client: Client) -> None:
    """What is only a warning (domain, section 4) passes."""
    assert client.post([child(child_details={"ethnicity": "ZZZZ"}, new_field=1)]).status_code == 200


def test_without_validation_only_the_id_is_needed() -> None:
    """validate=False takes what the schema refuses, but nothing that has no la_child_id."""
    with Receiver(validate=False) as receiver:
        client = Client(receiver).sign_in()
        with client.session:
            assert client.post([child(child_details={"sex": "X"})]).status_code == 200
            assert list(client.post([child(), {"la_child_id": 1}]).json()["errors"]) == ["[1]"]


def test_body_over_the_limit_is_413_and_the_connection_lives_on() -> None:
    """One byte over the limit is refused, the limit itself is not, over one connection."""
    body = json.dumps([child()]).encode()
    with Receiver(max_body_bytes=len(body)) as receiver:
        client = Client(receiver).sign_in()
        with client.session:
            assert client.post(body + b" ").status_code == 413
            assert client.post(b" " * 1_000_000).status_code == 413
            assert client.post(body).status_code == 200
    assert len({record.connection for record in receiver.requests}) == 1


def test_body_without_a_length_is_411(client: Client) -> None:
    """A chunked body is refused at once, not waited for."""
    reply = client.session.post(
        client.receiver.children_url, data=iter([b"[]"]), headers=client.headers, timeout=5
    )
    assert reply.status_code == 411


# --- The children endpoint: what is taken ----------------------------------------------------------------


def test_receipts_come_in_order_and_belong_to_their_records(client: Client) -> None:
    """100 records get 100 different receipts in the order sent; each child's own is kept."""
    reply = client.post(children(100))
    assert reply.status_code == 200
    assert reply.headers["Content-Type"].startswith("application/json")
    values = reply.json()
    assert len(set(values)) == 100
    assert all(RECEIPT.fullmatch(value) for value in values)
    assert [client.receiver.receipts[f"child-{number}"] for number in range(100)] == values


@pytest.mark.parametrize("digits", range(2, 8))
def test_receipts_carry_the_clocks_time(clock: Clock, digits: int) -> None:
    """A receipt begins with the receiver's UTC time, its seconds with as many digits as asked for."""
    with Receiver(fraction_digits=digits, clock=clock) as receiver:
        client = Client(receiver).sign_in()
        with client.session:
            (value,) = client.post([child()]).json()
    assert value.startswith(f"2025-06-15_15:06:40.{'1234560'[:digits]}_")
    assert RECEIPT.fullmatch(value)


def test_a_payload_replaces_the_child_and_a_purge_removes_it(client: Client) -> None:
    """The last payload is the one kept; a purge removes the child, and purging it again is harmless."""
    client.post([child("a", mis_child_id="old"), child("b")])
    client.post([child("a", mis_child_id="new")])
    assert client.receiver.children == {"a": child("a", mis_child_id="new"), "b": child("b")}
    purge = {"la_child_id": "a", "purge": True}
    assert client.post([purge]).status_code == 200
    assert client.post([purge]).status_code == 200
    assert client.receiver.children == {"b": child("b")}
    assert client.receiver.purged == ["a", "a"]


def test_partial_payloads_are_applied_if_asked_for() -> None:
    """With apply_partials a payload changes what it names; a purge flag removes a record, or the child."""
    episodes = [{"social_care_episode_id": "e1", "adoption": {}}, {"social_care_episode_id": "e2"}]
    change = {"social_care_episode_id": "e1", "closure_reason": "RC1"}
    with Receiver(apply_partials=True) as receiver:
        client = Client(receiver).sign_in()
        with client.session:
            client.post([child("a", social_care_episodes=episodes), child("b")])
            client.post([child("a", child_details={"sex": "F"}, social_care_episodes=[change])])
            client.post([child("a", child_details={"sex": "M"})])
            client.post([{"la_child_id": "a", "child_details": {"purge": True}}])
            client.post([{"la_child_id": "b", "purge": True}])
    held = {"la_child_id": "a", "social_care_episodes": [{**change, "adoption": {}}, episodes[1]]}
    assert receiver.children == {"a": held}
    assert receiver.purged == ["b"]


@pytest.mark.parametrize(
    "name", ["O'Brien", "Zo\u00eb", "\u738b\u5c0f\u660e", "\U0001f9d2\U0001f3fd", "a\u0301"]
)
def test_names_of_every_script_are_kept_byte_for_byte(client: Client, name: str) -> None:
    """What was sent is what is kept, as bytes and as text, without any normalisation."""
    body = json.dumps([child(child_details={"surname": name})], ensure_ascii=False).encode()
    assert client.post(body).status_code == 200
    assert client.receiver.submissions[-1].body == body
    assert client.receiver.children["child-1"]["child_details"]["surname"] == name


def test_connection_is_kept_alive_through_refusals(client: Client) -> None:
    """A token, a refusal and two batches travel over one connection."""
    client.post([])
    client.post([child()])
    client.post(children(2))
    assert {record.connection for record in client.receiver.requests} == {1}
    assert [record.status for record in client.receiver.requests] == [200, 400, 200, 200]


def test_requests_are_recorded_with_counts(client: Client, clock: Clock) -> None:
    """Each submission leaves its time, status, number of records, size and User-Agent."""
    body = json.dumps(children(3)).encode()
    client.post(body, User_Agent="agent/1")
    (record,) = client.receiver.submissions
    assert (record.time, record.status, record.records, record.size) == (clock.now, 200, 3, len(body))
    assert (record.taken, record.fault, record.user_agent) == (True, "", "agent/1")
    assert client.receiver.records_taken == 3


def test_nothing_of_a_child_is_kept_unless_asked() -> None:
    """Without keep_bodies and keep_children only counts remain."""
    with Receiver(keep_children=False) as receiver:
        client = Client(receiver).sign_in()
        with client.session:
            assert client.post([child()]).status_code == 200
    assert receiver.children == {}
    assert receiver.receipts == {}
    assert receiver.submissions[0].body is None
    assert receiver.records_taken == 1


def test_expect_100_continue_is_answered(client: Client) -> None:
    """A client that waits for leave to send its body gets it."""
    address = urlsplit(client.receiver.children_url)
    connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=5)
    body = json.dumps([child()]).encode()
    connection.putrequest("POST", address.path)
    for name, value in {**client.headers, "Content-Length": str(len(body)), "Expect": "100-continue"}.items():
        connection.putheader(name, str(value))
    connection.endheaders()
    assert connection.sock.recv(100).startswith(b"HTTP/1.1 100 ")
    connection.send(body)
    assert connection.getresponse().status == 200
    connection.close()


# --- Life of the receiver --------------------------------------------------------------------------------


def test_settings_reach_the_receiver(receiver: Receiver) -> None:
    """The settings name every API setting and look like DfE's test receiver, on loopback."""
    settings = receiver.settings()
    assert set(settings) == set(
        "API_ENDPOINT LA_CODE TOKEN_ENDPOINT CLIENT_ID CLIENT_SECRET SCOPE SUPPLIER_KEY".split()
    )
    assert settings["API_ENDPOINT"].startswith("http://127.0.0.1:")
    assert settings["API_ENDPOINT"].endswith("/children-in-social-care-data-receiver-test/1")
    assert all("fake" in settings[key] for key in ("CLIENT_ID", "CLIENT_SECRET", "SCOPE", "SUPPLIER_KEY"))


def test_base_path_can_be_that_of_the_live_receiver() -> None:
    """For runs on a live table the URL can do without -receiver-test."""
    with Receiver(base_path=LIVE_BASE_PATH) as receiver:
        assert "-test" not in receiver.base_url
        client = Client(receiver).sign_in()
        with client.session:
            assert client.post([child()]).status_code == 200


def test_stopped_receiver_refuses_and_comes_back_on_its_port(client: Client) -> None:
    """After stop() connections are refused; start() brings the same address and memory back."""
    client.post([child()])
    client.receiver.stop()
    with pytest.raises(requests.ConnectionError):
        client.post([child()])
    client.receiver.start()
    assert client.post([child("b")]).status_code == 200
    assert set(client.receiver.children) == {"child-1", "b"}


def test_port_in_use_is_a_clear_error(receiver: Receiver) -> None:
    """A port that is taken is a configuration error that names it."""
    port = urlsplit(receiver.base_url).port or 0
    with pytest.raises(ConfigError, match=f"port {port}"):
        Receiver(port).start()


def test_address_is_unknown_before_start() -> None:
    """A receiver that never listened has no URL to give out."""
    with pytest.raises(RuntimeError):
        _ = Receiver().base_url


def test_serve_forever_reports_counts_and_never_content(capfd: pytest.CaptureFixture[str]) -> None:
    """One line for each request, with counts; no id, name, key or token; nothing on the console."""
    receiver, lines, stop = Receiver(faults=[Fault("503")]).start(), list[str](), threading.Event()

    def send() -> None:
        client = Client(receiver).sign_in()
        with client.session:
            client.post(children(2))
            client.post(children(2))
        stop.set()

    sender = threading.Thread(target=send)
    sender.start()
    serve_forever(receiver, lines.append, stop=stop)
    sender.join()
    with pytest.raises(requests.ConnectionError):
        requests.get(receiver.root_url, timeout=5)
    assert [line.split(";")[0] for line in lines] == [
        "POST token: 200",
        "POST children: 503",
        "POST children: 200",
    ]
    assert "not taken; fault 503" in lines[1]
    assert lines == [describe(record) for record in receiver.requests]
    assert re.fullmatch(r"POST children: 200; 2 records, \d+ bytes, taken", lines[2])
    assert capfd.readouterr() == ("", "")


# --- Faults on the wire ----------------------------------------------------------------------------------


def spoil(client: Client, *faults: Fault) -> None:
    """Ask for faults."""
    client.receiver.faults.add(*faults)


@pytest.mark.parametrize(
    "status", [400, 401, 403, 404, 408, 413, 418, 422, 429, 499, 500, 502, 503, 504, 599]
)
def test_status_faults_refuse_as_json_and_take_nothing(client: Client, status: int) -> None:
    """A status fault answers with that status as JSON, once, and takes nothing."""
    spoil(client, Fault(str(status)))
    reply = client.post([child()])
    assert reply.status_code == status
    assert isinstance(reply.json(), dict)
    assert not re.search(r"\[\d", reply.text)
    assert client.receiver.children == {}
    assert client.sign_in().post([child()]).status_code == 200


def test_401_fault_revokes_the_tokens(client: Client) -> None:
    """After the 401 the old token stays dead, so only a new one helps."""
    spoil(client, Fault("401"))
    assert [client.post([child()]).status_code for _ in range(2)] == [401, 401]
    assert client.sign_in().post([child()]).status_code == 200


def test_204_has_no_body_and_takes_nothing(client: Client) -> None:
    """204 means that nothing was taken; the connection lives on."""
    spoil(client, Fault("204"))
    reply = client.post([child()])
    assert (reply.status_code, reply.content) == (204, b"")
    assert client.receiver.children == {}
    assert client.post([child()]).status_code == 200
    assert {record.connection for record in client.receiver.requests} == {1}


def test_302_leads_to_a_page_that_looks_like_success(client: Client) -> None:
    """A client that follows the redirect ends at a 200, as behind a real portal; nothing was taken."""
    spoil(client, Fault("302"))
    reply = client.post([child()])
    assert reply.status_code == 302
    assert client.session.get(reply.headers["Location"], timeout=5).status_code == 200
    assert client.receiver.children == {}


@pytest.mark.parametrize(("kind", "status"), [("html", 200), ("403-html", 403)])
def test_pages_are_html_and_take_nothing(client: Client, kind: str, status: int) -> None:
    """Portals and firewalls answer with a page."""
    spoil(client, Fault(kind))
    reply = client.post([child()])
    assert (reply.status_code, reply.headers["Content-Type"]) == (status, "text/html; charset=utf-8")
    assert reply.text.startswith("<!DOCTYPE html>")
    assert client.receiver.children == {}


@pytest.mark.parametrize("kind", ["400-record", "422-record"])
def test_record_refusals_name_the_child(client: Client, kind: str) -> None:
    """The refusal names every record of that child and no other; without a child, the first record."""
    spoil(client, Fault(kind, child="child-2"), Fault(kind))
    named = client.post(children(4))
    assert named.status_code == int(kind[:3])
    assert [key.split(".")[0] for key in named.json()["errors"]] == ["[2]"]
    assert [key.split(".")[0] for key in client.post(children(4)).json()["errors"]] == ["[0]"]
    assert client.receiver.children == {}


def test_object_and_empty_replies_come_after_the_batch_is_taken(client: Client) -> None:
    """A reply that says nothing about the batch leaves it taken."""
    spoil(client, Fault("object"), Fault("empty"))
    reply = client.post([child("a")])
    assert reply.status_code == 200
    assert isinstance(reply.json(), dict)
    reply = client.post([child("b")])
    assert (reply.status_code, reply.content) == (200, b"")
    assert set(client.receiver.children) == {"a", "b"}


@pytest.mark.parametrize(("kind", "count"), [("missing-receipt", 2), ("extra-receipt", 4)])
def test_receipt_count_can_be_wrong(client: Client, kind: str, count: int) -> None:
    """One receipt too few or too many for three records that were taken."""
    spoil(client, Fault(kind))
    reply = client.post(children(3))
    assert reply.status_code == 200
    assert len(reply.json()) == count
    assert len(client.receiver.children) == 3


def test_receipts_can_be_apart_by_white_space(client: Client) -> None:
    """The same receipts in the right order, as plain text."""
    spoil(client, Fault("spaced"))
    values = client.post(children(3)).text.split()
    assert values == [client.receiver.receipts[f"child-{number}"] for number in range(3)]


def test_receipts_can_lack_the_suffix(client: Client) -> None:
    """The same receipts without .json."""
    spoil(client, Fault("no-suffix"))
    (value,) = client.post([child()]).json()
    assert value + ".json" == client.receiver.receipts["child-1"]


def test_cut_off_body_is_noticed_by_the_client(client: Client) -> None:
    """Half of the reply arrives, although its length promised all; the batch was taken."""
    spoil(client, Fault("cut-off"))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)) as caught:
        client.post(children(3))
    assert "IncompleteRead" in repr(caught.value)
    assert len(client.receiver.children) == 3


def test_reset_takes_nothing(client: Client) -> None:
    """The connection is reset, not closed in order, and nothing was taken."""
    spoil(client, Fault("reset"))
    with pytest.raises(requests.ConnectionError) as caught:
        client.post([child()])
    assert "ConnectionResetError" in repr(caught.value)
    assert client.receiver.children == {}
    assert client.receiver.submissions[0].status == 0


def test_lost_reply_takes_the_batch(client: Client) -> None:
    """The connection closes without a reply although the batch was taken."""
    spoil(client, Fault("lost-reply"))
    with pytest.raises(requests.ConnectionError) as caught:
        client.post([child()])
    assert "RemoteDisconnected" in repr(caught.value)
    assert set(client.receiver.children) == {"child-1"}


def test_delay_outlasts_the_clients_patience_and_takes_the_batch(client: Client) -> None:
    """A client that gives up waiting cannot know that the batch was taken; stop() ends the delay."""
    spoil(client, Fault("delay", seconds=600))
    with pytest.raises(requests.ReadTimeout):
        client.post([child()], timeout=0.2)
    assert set(client.receiver.children) == {"child-1"}


def test_delayed_reply_is_the_right_one(client: Client) -> None:
    """After the delay comes what would have come without it."""
    spoil(client, Fault("delay", seconds=0.01))
    assert client.post([child()]).json() == [client.receiver.receipts["child-1"]]


@pytest.mark.parametrize("taken", [True, False])
def test_gateway_status_may_come_after_taking_the_batch(client: Client, taken: bool) -> None:
    """Whether the batch is taken can be chosen against the kind's own way."""
    spoil(client, Fault("504", taken=taken), Fault("missing-receipt", taken=taken))
    assert client.post([child()]).status_code == 504
    assert client.post(children(2)).status_code == 200
    assert set(client.receiver.children) == ({"child-0", "child-1"} if taken else set())
    assert [record.taken for record in client.receiver.submissions] == [taken, taken]


def test_retry_after_in_seconds_as_text_and_as_a_date(client: Client, clock: Clock) -> None:
    """Retry-After carries seconds or any text as given, or a date counted from the receiver's clock."""
    spoil(client, Fault("429", retry_after=7), Fault("503", retry_after="soon"), Fault("429", retry_at=30))
    assert client.post([child()]).headers["Retry-After"] == "7"
    assert client.post([child()]).headers["Retry-After"] == "soon"
    date = client.post([child()]).headers["Retry-After"]
    assert date.endswith("GMT")
    assert parsedate_to_datetime(date).timestamp() == int(clock.now) + 30


def test_413_can_depend_on_the_number_of_records(client: Client) -> None:
    """A limit of records refuses every larger batch and takes every smaller one."""
    spoil(client, Fault("413", times=None, records=2))
    assert [client.post(children(count)).status_code for count in (3, 2, 4, 1, 3)] == [
        413,
        200,
        413,
        200,
        413,
    ]


def test_fault_can_stick_to_a_child(client: Client) -> None:
    """Only batches that hold the child are spoiled, as often as asked."""
    spoil(client, Fault("400", times=None, child="child-3"))
    assert [client.post(children(count)).status_code for count in (3, 4, 3, 5)] == [200, 400, 200, 400]


def test_faults_come_in_order_and_after_the_requests_let_pass(client: Client) -> None:
    """Faults happen one after the other; ``after`` lets that many requests pass."""
    spoil(client, Fault("503", times=2), Fault("429", after=3))
    assert [client.post([child()]).status_code for _ in range(5)] == [503, 503, 200, 429, 200]
    assert client.receiver.faults.left == ()


def test_fault_that_takes_waits_for_an_acceptable_batch(client: Client) -> None:
    """A refused batch keeps its own refusal and does not use the fault up."""
    spoil(client, Fault("missing-receipt"))
    assert client.post([]).status_code == 400
    assert client.receiver.faults.left == (Fault("missing-receipt"),)
    assert len(client.post(children(2)).json()) == 1


@pytest.mark.parametrize(
    ("kind", "status"),
    [("400", 400), ("401", 401), ("503", 503), ("html", 200), ("302", 302), ("object", 200)],
)
def test_token_faults_give_no_token_and_leave_the_children_endpoint_alone(
    client: Client, kind: str, status: int
) -> None:
    """A fault at the token endpoint answers there, once, with nothing that could pass for a token."""
    spoil(client, Fault(kind, at="token"))
    assert client.post([child()]).status_code == 200
    reply = client.token()
    assert reply.status_code == status
    assert "access_token" not in reply.text
    assert client.token().json()["access_token"]


@pytest.mark.parametrize("kind", ["reset", "lost-reply", "cut-off"])
def test_token_connection_can_break(client: Client, kind: str) -> None:
    """The connection faults work at the token endpoint too."""
    spoil(client, Fault(kind, at="token"))
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        client.token()
    assert client.token().status_code == 200


# --- Faults as text --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("503", Fault("503")),
        ("503:2", Fault("503", times=2)),
        ("503:always", Fault("503", times=None)),
        ("429:1:retry-after=2", Fault("429", retry_after="2")),
        ("429:retry-at=60", Fault("429", retry_at=60)),
        ("delay:3:seconds=0.5", Fault("delay", times=3, seconds=0.5)),
        ("413:always:records=10", Fault("413", times=None, records=10)),
        ("400-record:child=abc:after=2", Fault("400-record", child="abc", after=2)),
        ("504:1:taken=yes", Fault("504", taken=True)),
        ("token/401:2", Fault("401", times=2, at="token")),
    ],
)
def test_fault_text_is_read(text: str, fault: Fault) -> None:
    """The command-line form says the same as the object."""
    assert parse_fault(text) == fault


@pytest.mark.parametrize("kind", [kind for kind in FAULTS if kind != ANY_STATUS])
def test_every_kind_of_the_table_can_be_written(kind: str) -> None:
    """Each kind can be asked for by its name."""
    assert parse_fault(kind) == Fault(kind)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "nonsense",
        ANY_STATUS,
        "399",
        "600",
        "\u0664\u0660\u0664",
        "503:0",
        "503:-1",
        "503:many",
        "503:2:3",
        "503:1:colour=red",
        "503:1:taken=perhaps",
        "delay:seconds=-1",
        "delay:seconds=nan",
        "delay:seconds=inf",
        "413:records=ten",
        "503:after=-1",
        "token/spaced",
        "token/503:child=abc",
        "elsewhere/503",
    ],
)
def test_unusable_fault_text_is_a_clear_error(text: str) -> None:
    """What cannot be read is a configuration error that lists the kinds."""
    with pytest.raises(ConfigError) as caught:
        parse_fault(text)
    assert all(kind in str(caught.value) for kind in FAULTS)


def test_queue_gives_each_fault_out_once_whatever_the_threads_do() -> None:
    """Four threads together get exactly as many faults as were put in."""
    faults, taken = FaultQueue([Fault("503", times=300), Fault("429", times=200)]), list[str]()

    def work() -> None:
        for _ in range(200):
            fault = faults.take("children", (), accepted=True)
            if fault is not None:
                taken.append(fault.kind)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (taken.count("503"), taken.count("429")) == (300, 200)
    assert faults.left == ()
