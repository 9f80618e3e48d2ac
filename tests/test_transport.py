"""The session: no redirects, no netrc, the right proxy, the right certificates, and faults named by hop."""

from __future__ import annotations

import base64
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
import trustme

from api_pipeline.errors import ConfigError
from api_pipeline.transport import ConnectionFault, Fault, Route, Transport, choose_route, explain
from tests.scripted_server import Reply, ScriptedServer, TinyProxy, closed_port

HEADERS = {"Content-Type": "application/json"}
BODY = b'[{"la_child_id": "1"}]'
PATH = "/anything"


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    """A scripted server over plain HTTP."""
    with ScriptedServer() as running:
        yield running


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority that no system trusts."""
    return trustme.CA()


@pytest.fixture
def tls_server(authority: trustme.CA) -> Iterator[ScriptedServer]:
    """A scripted server over TLS, for the names localhost and receiver.test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "receiver.test").configure_cert(context)
    with ScriptedServer(context) as running:
        yield running


@pytest.fixture
def bundle(authority: trustme.CA, tmp_path: Path) -> Path:
    """The authority's certificate as a PEM file."""
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(path)
    return path


def transport(
    *, proxy: str | None = None, no_proxy: str | None = None, ca: Path | None = None, timeout: float = 5
) -> Transport:
    """Return a transport for one test."""
    return Transport(
        user_agent="csc-api-pipeline/test",
        timeout=timeout,
        https_proxy=proxy,
        no_proxy=no_proxy,
        ca_bundle=ca,
    )


def post(url: str, using: Transport | None = None) -> requests.Response:
    """Post the body once and close."""
    sender = using or transport()
    try:
        return sender.post(url, BODY, headers=HEADERS)
    finally:
        sender.close()


def fault(url: str, using: Transport | None = None) -> Fault:
    """Return the fault that posting ends with."""
    with pytest.raises(ConnectionFault) as caught:
        post(url, using)
    return caught.value.fault


def test_the_request_is_what_was_asked_for(server: ScriptedServer) -> None:
    """The body arrives byte for byte with its length, under the product's own name."""
    assert post(server.url(PATH)).status_code == 200
    (seen,) = server.seen(PATH)
    assert seen.body == BODY
    assert seen.headers["Content-Length"] == str(len(BODY))
    assert seen.headers["User-Agent"] == "csc-api-pipeline/test"
    assert "Transfer-Encoding" not in seen.headers


def test_a_redirect_is_handed_back_and_not_followed(server: ScriptedServer) -> None:
    """A 302 stays a 302: what it points to is never asked."""
    server.play(Reply(302, headers={"Location": server.url("/login")}), path=PATH)
    assert post(server.url(PATH)).status_code == 302
    assert [seen.path for seen in server.requests] == [PATH]


def test_netrc_adds_no_login(server: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry for the host in netrc puts no Authorization header on a request that has none."""
    netrc = tmp_path / "netrc"
    netrc.write_text("default login somebody password something\n", encoding="ascii")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    post(server.url(PATH))
    assert "Authorization" not in server.seen(PATH)[0].headers


def test_connections_are_kept(server: ScriptedServer) -> None:
    """Two requests to the same host share one connection."""
    sender = transport()
    sender.post(server.url(PATH), BODY, headers=HEADERS)
    sender.post(server.url(PATH), BODY, headers=HEADERS)
    sender.close()
    assert len({seen.connection for seen in server.requests}) == 1


# Faults by hop


def test_an_unknown_name_is_dns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that does not resolve is reported as such, and nothing was sent."""

    def unknown(*_args: object, **_options: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    found = fault("http://receiver.test/x")
    assert (found.hop, found.sent, found.lasting) == ("dns", False, False)
    assert "receiver.test" in found.message


def test_a_refused_port_is_tcp() -> None:
    """A port that nobody listens on is a fault of the connection, and nothing was sent."""
    found = fault(f"http://127.0.0.1:{closed_port()}/x")
    assert (found.hop, found.sent, found.lasting) == ("tcp", False, False)
    assert "refused" in found.message.lower()


def test_a_connection_that_never_opens_is_tcp() -> None:
    """A connect timeout leaves no doubt: nothing was sent."""
    found = explain(requests.ConnectTimeout(), "https://receiver.test/x", Route(None, ""), sent=False)
    assert (found.hop, found.sent) == ("tcp", False)


def test_a_slow_reply_is_a_timeout_and_unsure(server: ScriptedServer) -> None:
    """No reply in time leaves it open whether the request was taken."""
    server.play(Reply(delay=0.25), path=PATH)
    found = fault(server.url(PATH), transport(timeout=0.1))
    assert (found.hop, found.sent, found.lasting) == ("timeout", True, False)


@pytest.mark.parametrize("delivery", ["reset", "close", "cut"])
def test_a_lost_reply_is_unsure(server: ScriptedServer, delivery: str) -> None:
    """A reset, a close without a reply and a reply cut half-way may all come after the batch was taken."""
    server.play(Reply(body=b"x" * 100, delivery=delivery), path=PATH)  # type: ignore[arg-type]
    found = fault(server.url(PATH))
    assert (found.hop, found.sent, found.lasting) == ("connection", True, False)


def test_plain_http_on_a_tls_port_is_tls(server: ScriptedServer) -> None:
    """A server that does not speak TLS got no request."""
    found = fault(server.url(PATH).replace("http:", "https:"))
    assert (found.hop, found.sent, found.lasting) == ("tls", False, False)
    assert server.requests == []


def test_a_server_that_hangs_in_the_handshake_is_tls() -> None:
    """A timeout before the request could be sent is sure."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = fault(f"https://localhost:{silent.getsockname()[1]}/x", transport(timeout=0.1))
    assert (found.hop, found.sent) == ("tls", False)


def test_a_header_that_http_cannot_carry_is_not_quoted(server: ScriptedServer) -> None:
    """A line break in a key ends in a message without the key."""
    sender = transport()
    for value in ("se\ncret", "se\u20accret"):
        with pytest.raises(ConnectionFault) as caught:
            sender.post(server.url(PATH), BODY, headers={"SupplierKey": value})
        assert caught.value.fault.hop == "settings"
        assert caught.value.fault.lasting
        assert "cret" not in repr(caught.value.fault)
    sender.close()


def test_credentials_in_an_address_are_never_shown() -> None:
    """Neither the message nor the route tells the password of an address."""
    route = Route("http://user:hush@proxy.test:8080", "HTTPS_PROXY")
    for error in (requests.ConnectionError(), requests.exceptions.ProxyError(), requests.Timeout()):
        found = explain(error, "https://user:hush@receiver.test/x?key=hush", route, sent=True)
        assert "hush" not in repr(found)
    assert "hush" not in f"{route} {route!r}"


# Certificates


def test_an_untrusted_certificate_is_refused_for_good(tls_server: ScriptedServer) -> None:
    """A certificate of an unknown authority ends it before anything is sent, and says what to set."""
    found = fault(tls_server.url(PATH, "localhost"))
    assert (found.hop, found.sent, found.lasting) == ("tls", False, True)
    assert "CA_BUNDLE" in found.remedy
    assert tls_server.requests == []


def test_ca_bundle_is_trusted(tls_server: ScriptedServer, bundle: Path) -> None:
    """CA_BUNDLE makes the authority's certificates good."""
    assert post(tls_server.url(PATH, "localhost"), transport(ca=bundle)).status_code == 200


def test_a_certificate_for_another_name_is_refused(tls_server: ScriptedServer, bundle: Path) -> None:
    """A trusted certificate for another host is no good, and the remedy is about the host."""
    found = fault(tls_server.url(PATH, "127.0.0.1"), transport(ca=bundle))
    assert (found.hop, found.lasting) == ("tls", True)
    assert "host name" in found.remedy


def test_an_unreadable_ca_bundle_is_a_setting_to_mend(tmp_path: Path) -> None:
    """A CA_BUNDLE that is missing or holds no certificate is named before anything is sent."""
    (tmp_path / "empty.pem").write_text("nothing\n", encoding="ascii")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(ConfigError, match="CA_BUNDLE"):
            transport(ca=tmp_path / name)


# Proxies


def test_the_setting_chooses_the_proxy(server: ScriptedServer) -> None:
    """With HTTPS_PROXY set, a host that only the proxy can reach is reached, with the proxy's login."""
    with TinyProxy(server.port) as proxy:
        sender = transport(proxy=f"http://user:hush@{proxy.address}")
        assert post("http://receiver.test/anything", sender).status_code == 200
    assert proxy.lines == ["POST http://receiver.test/anything HTTP/1.1"]
    assert proxy.logins == ["Basic " + base64.b64encode(b"user:hush").decode()]
    assert server.seen(PATH)[0].body == BODY


def test_tls_goes_through_the_proxy(tls_server: ScriptedServer, bundle: Path) -> None:
    """An https address is tunnelled, and the certificate is checked against the server's name."""
    with TinyProxy(tls_server.port) as proxy:
        sender = transport(proxy=f"http://{proxy.address}", ca=bundle)
        assert post("https://receiver.test/anything", sender).status_code == 200
    assert [line.rpartition(" ")[0] for line in proxy.lines] == ["CONNECT receiver.test:443"]
    assert tls_server.seen(PATH)[0].body == BODY


def test_a_proxy_that_wants_a_login_is_named(server: ScriptedServer) -> None:
    """A 407 names the proxy without its password and the ways out, and lasts."""
    with TinyProxy(server.port, status=407) as proxy:
        found = fault("https://receiver.test/x", transport(proxy=f"http://user:hush@{proxy.address}"))
    assert (found.hop, found.sent, found.lasting) == ("proxy", False, True)
    assert proxy.address in found.message
    assert "NTLM" in found.remedy
    assert "receiver.test" in found.remedy
    assert "hush" not in repr(found)


@pytest.mark.parametrize(("status", "lasting"), [(403, True), (502, False), (429, False)])
def test_a_proxy_that_refuses_is_named(server: ScriptedServer, status: int, lasting: bool) -> None:
    """A tunnel refused for good lasts; one that failed may work later; nothing was sent either way."""
    with TinyProxy(server.port, status=status) as proxy:
        found = fault("https://receiver.test/x", transport(proxy=f"http://{proxy.address}"))
    assert (found.hop, found.sent, found.lasting) == ("proxy", False, lasting)
    assert str(status) in found.message


def test_a_dead_proxy_is_named() -> None:
    """A proxy that does not answer is told from a server that does not."""
    address = f"127.0.0.1:{closed_port()}"
    for scheme in ("http", "https"):
        found = fault(f"{scheme}://receiver.test/x", transport(proxy=f"http://{address}"))
        assert (found.hop, found.sent, found.lasting) == ("proxy", False, False)
        assert address in found.message


def test_loopback_never_goes_through_a_proxy(server: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the setting nor the environment takes a request to this machine elsewhere."""
    dead = f"http://127.0.0.1:{closed_port()}"
    monkeypatch.setenv("http_proxy", dead)
    assert post(server.url(PATH), transport(proxy=dead)).status_code == 200


@pytest.mark.parametrize(
    ("proxy", "no_proxy", "environment", "chosen", "why"),
    [
        ("http://a:1", None, {}, "http://a:1", "HTTPS_PROXY"),
        ("http://a:1", "other.test", {}, "http://a:1", "HTTPS_PROXY"),
        ("http://a:1", None, {"https_proxy": "http://b:2"}, "http://a:1", "HTTPS_PROXY"),
        ("http://a:1", "other.test, .receiver.test", {}, None, "NO_PROXY"),
        (None, None, {"https_proxy": "http://b:2"}, "http://b:2", "environment"),
        (None, None, {"HTTPS_PROXY": "b:2"}, "http://b:2", "environment"),
        (None, None, {"https_proxy": "http://b:2", "no_proxy": "receiver.test"}, None, "none is set"),
        (None, "api.receiver.test", {"https_proxy": "http://b:2"}, None, "none is set"),
        (None, None, {}, None, "none is set"),
    ],
)
def test_the_proxy_and_its_reason(
    proxy: str | None,
    no_proxy: str | None,
    environment: dict[str, str],
    chosen: str | None,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The setting comes before the environment, exemptions are kept, and the reason is told."""
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    route = choose_route("https://api.receiver.test/x", https_proxy=proxy, no_proxy=no_proxy)
    assert route.proxy == chosen
    assert why in route.why
    assert why in str(route)
