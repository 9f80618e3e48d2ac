"""HTTP to the token endpoint and the API: one session, its proxy, its certificates, its timeouts.

Nothing here knows what is sent. The session never follows a redirect, never reads netrc, and repeats
nothing by itself; what goes wrong on the way is explained hop by hop (domain, section 2).
"""

from __future__ import annotations

import io
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
import truststore
from requests import exceptions as rx
from requests.adapters import HTTPAdapter
from requests.auth import AuthBase
from requests.utils import get_environ_proxies, select_proxy, should_bypass_proxies
from urllib3 import exceptions as ux

from api_pipeline.errors import ConfigError
from api_pipeline.setting_values import is_loopback

# More than any number of workers that a run would use; surplus connections would be opened each time.
_POOL_SIZE = 32

_PROXY_LOGIN_REMEDY = (
    "Where the proxy takes a plain login, write it into HTTPS_PROXY (http://user:password@proxy:port). "
    "NTLM and Kerberos logins are beyond this tool: ask IT to let this machine reach {host} without the "
    "proxy's login (best), or run a local relay such as Px and set HTTPS_PROXY to it."
)


@dataclass(frozen=True, slots=True)
class Route:
    """How an address is reached: through ``proxy``, or directly (``None``), and ``why``.

    ``proxy`` may hold a password, so it is not part of the repr; print ``str(route)``.
    """

    proxy: str | None = field(repr=False)
    why: str

    @property
    def proxies(self) -> dict[str, str]:
        """The route in the form that requests takes."""
        return {"http": self.proxy, "https": self.proxy} if self.proxy else {}

    @property
    def shown(self) -> str:
        """The proxy without its user and password."""
        return _origin(self.proxy) if self.proxy else ""

    def __str__(self) -> str:
        return f"proxy {self.shown} ({self.why})" if self.proxy else f"no proxy ({self.why})"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why no reply came.

    Attributes:
        hop: ``dns``, ``proxy``, ``tcp``, ``tls``, ``timeout``, ``connection`` or ``settings``.
        sent: whether any of the body may have reached the server, so that its fate is unsure.
        lasting: whether trying again during this run cannot help (a login, a certificate, an address).
    """

    hop: str
    message: str
    remedy: str
    sent: bool
    lasting: bool = False


class ConnectionFault(Exception):
    """A request ended without a reply; ``fault`` says at which hop."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.message)
        self.fault = fault


class _WatchedBody(io.BytesIO):
    """A request body that knows whether its first byte was handed to the connection.

    The body is asked for only once the connection is open (proxy tunnel and TLS handshake included) and the
    headers are written, so a body that was never read cannot have been taken by the server.
    """

    started = False

    def read(self, _size: int | None = -1, /) -> bytes:
        """Return all of it at once: one write to the socket rather than one for each block."""
        self.started = True
        return super().read()

    def __iter__(self) -> Iterator[bytes]:  # pragma: no cover - the client reads; this keeps the flag true
        yield self.read()


class _SystemTrustAdapter(HTTPAdapter):
    """Checks certificates with the operating system's store (and CA_BUNDLE), to server and proxy alike."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        super().__init__(pool_maxsize=_POOL_SIZE, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        kwargs.update(ssl_context=self._context, proxy_ssl_context=self._context)
        return super().proxy_manager_for(proxy, **kwargs)

    def cert_verify(self, conn: Any, *_args: Any, **_kwargs: Any) -> None:
        """Leave the certificates to the context; the inherited method would add a bundled list of CAs."""
        conn.cert_reqs = "CERT_REQUIRED"


def build_session(*, user_agent: str, ca_bundle: Path | None = None) -> requests.Session:
    """Return a session that trusts the system's certificates and takes nothing from the environment.

    Raises:
        ConfigError: CA_BUNDLE cannot be read.
    """
    session = requests.Session()
    # Else an entry in netrc would replace the Authorization header, on the token request too.
    session.trust_env = False
    session.headers["User-Agent"] = user_agent
    session.headers["Accept"] = "application/json, */*;q=0.5"
    adapter = _SystemTrustAdapter(_trust(ca_bundle))
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


def _trust(ca_bundle: Path | None) -> ssl.SSLContext:
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(
                f"CA_BUNDLE cannot be read as certificates: {ca_bundle}.",
                hop="settings",
                remedy="Name a file that holds the certificates of your authority's CA in PEM form.",
            ) from error
    return context


def choose_route(url: str, *, https_proxy: str | None = None, no_proxy: str | None = None) -> Route:
    """Choose the proxy for ``url`` and say why (interface, "Settings": HTTPS_PROXY, NO_PROXY).

    The setting wins over the environment's and the Windows user's proxy; loopback never has one.
    """
    if is_loopback(url):
        return Route(None, "loopback")
    if https_proxy:
        if no_proxy and should_bypass_proxies(url, no_proxy=no_proxy):
            return Route(None, "NO_PROXY")
        return Route(https_proxy, "HTTPS_PROXY")
    found = select_proxy(url, get_environ_proxies(url, no_proxy=no_proxy or None))
    if not found:
        return Route(None, "none is set, or the address is exempt")
    return Route(
        found if "://" in found else f"http://{found}", "environment or Windows settings of this user"
    )


class Transport:
    """Posts bodies over one session; safe to share between threads.

    Args:
        timeout: seconds for connecting and for each wait for data (REQUEST_TIMEOUT).

    Raises:
        ConfigError: CA_BUNDLE cannot be read.
    """

    def __init__(
        self,
        *,
        user_agent: str,
        timeout: float,
        https_proxy: str | None = None,
        no_proxy: str | None = None,
        ca_bundle: Path | None = None,
    ) -> None:
        self._session = build_session(user_agent=user_agent, ca_bundle=ca_bundle)
        self._timeout = timeout
        self._https_proxy = https_proxy
        self._no_proxy = no_proxy
        self._routes: dict[str, Route] = {}

    def route(self, url: str) -> Route:
        """Return the route to ``url``; it is chosen once."""
        if url not in self._routes:
            self._routes[url] = choose_route(url, https_proxy=self._https_proxy, no_proxy=self._no_proxy)
        return self._routes[url]

    def post(
        self, url: str, body: bytes, *, headers: Mapping[str, str], auth: AuthBase | None = None
    ) -> requests.Response:
        """Post ``body`` once and return the reply, whatever its status, read to its end.

        Raises:
            ConnectionFault: no whole reply came.
        """
        route = self.route(url)
        watched = _WatchedBody(body)
        try:
            request = requests.Request("POST", url, headers=dict(headers), data=watched, auth=auth)
            return self._session.send(
                self._session.prepare_request(request),
                timeout=(self._timeout, self._timeout),
                allow_redirects=False,
                proxies=route.proxies,
            )
        except (rx.RequestException, ux.HTTPError, HTTPException, OSError, UnicodeError) as error:
            # The cause is left out on purpose: its text may quote a header or the proxy's password.
            raise ConnectionFault(explain(error, url, route, sent=watched.started)) from None

    def close(self) -> None:
        """Close all connections."""
        self._session.close()


@dataclass(frozen=True, slots=True)
class _Request:
    """What the explanations need to know about the request that failed."""

    origin: str
    host: str
    route: Route
    sent: bool

    def fault(self, hop: str, message: str, remedy: str = "", *, lasting: bool = False) -> Fault:
        return Fault(hop, message, remedy, self.sent, lasting)


def explain(error: Exception, url: str, route: Route, *, sent: bool) -> Fault:
    """Say at which hop a request failed, and what to try; most specific first.

    Subclasses of ``requests.ConnectionError`` stand for anything from an unknown host to a lost reply, so the
    order of the rules matters. Neither credentials in an address nor header values are ever quoted.
    """
    request = _Request(_origin(url), urlsplit(url).hostname or "the host", route, sent)
    for rule in (_settings, _proxy, _tls, _unopened, _timeout):
        fault = rule(error, request)
        if fault is not None:
            return fault
    if isinstance(error, rx.ChunkedEncodingError | rx.ContentDecodingError):
        return request.fault("connection", f"The reply of {request.origin} was cut off or garbled.")
    return request.fault("connection", f"The connection to {request.origin} was lost ({_detail(error)}).")


def proxy_login(url: str, route: Route, *, sent: bool) -> Fault:
    """Return the fault for a proxy that asks for a login (407)."""
    host = urlsplit(url).hostname or "the host"
    message = f"The proxy {route.shown or 'on the way'} asks for a login (407)."
    return Fault("proxy", message, _PROXY_LOGIN_REMEDY.format(host=host), sent, lasting=True)


def _settings(error: Exception, request: _Request) -> Fault | None:
    if isinstance(error, rx.InvalidHeader | UnicodeError):
        message = "A header cannot be sent: it holds characters that HTTP does not allow."
        return request.fault("settings", message, "Check SUPPLIER_KEY and USER_AGENT.", lasting=True)
    if isinstance(error, rx.InvalidURL | rx.MissingSchema) and not isinstance(error, rx.InvalidProxyURL):
        message = "An address cannot be used as a URL."
        return request.fault("settings", message, "Check API_ENDPOINT and TOKEN_ENDPOINT.", lasting=True)
    return None


def _proxy(error: Exception, request: _Request) -> Fault | None:
    shown, why = request.route.shown, request.route.why
    if isinstance(error, rx.InvalidProxyURL | rx.InvalidSchema):
        message = f"The proxy {shown} cannot be used (chosen from: {why})."
        return request.fault("proxy", message, "Set HTTPS_PROXY to http://proxy:port.", lasting=True)
    if not isinstance(error, rx.ProxyError):
        return None
    tunnel = re.search(r"Tunnel connection failed: ([0-9]{3})", str(error))
    if tunnel is None:
        unknown = _find(error, ux.NameResolutionError) is not None
        fault = "its name cannot be resolved" if unknown else f"it does not answer ({_detail(error)})"
        message = f"The proxy {shown} cannot be reached: {fault} (chosen from: {why})."
        remedy = "Check HTTPS_PROXY and NO_PROXY, or ask IT which proxy to use."
        return request.fault("proxy", message, remedy)
    status = int(tunnel.group(1))
    if status == 407:
        return proxy_login(request.origin, request.route, sent=request.sent)
    message = f"The proxy {shown} refused the connection to {request.host} with {status}."
    remedy = f"Ask IT to let this machine reach {request.host} through the proxy."
    refused = 400 <= status < 500 and status not in (408, 429)
    return request.fault("proxy", message, remedy, lasting=refused)


def _tls(error: Exception, request: _Request) -> Fault | None:
    certificate = _find(error, ssl.SSLCertVerificationError)
    if certificate is not None:
        found = str(getattr(certificate, "verify_message", "")) or "it is not trusted"
        message = f"The certificate of {request.origin} was not accepted: {found}."
        return request.fault("tls", message, _certificate_remedy(found), lasting=True)
    unfinished = isinstance(error, rx.ReadTimeout) and not request.sent
    if isinstance(error, rx.SSLError) or unfinished:
        message = f"No encrypted connection to {request.origin} could be set up or kept ({_detail(error)})."
        return request.fault(
            "tls", message, "Check that the URL and its port speak https; ask IT about the proxy."
        )
    return None


def _certificate_remedy(found: str) -> str:
    text = found.lower()
    if "expired" in text or "not yet valid" in text:
        return "Check the clock of this machine; otherwise the server's certificate must be renewed."
    if "mismatch" in text or "not valid for" in text:
        return "Check the host name in the URL; a proxy or portal may be answering in its place."
    return (
        "If a proxy inspects the traffic, its CA must be in the machine's certificate store (not only in one "
        "user's), or set CA_BUNDLE to a PEM file that holds it."
    )


def _unopened(error: Exception, request: _Request) -> Fault | None:
    if _find(error, ux.NameResolutionError) is not None:
        remedy = "Check the host name in the URL, and whether this machine can resolve it or needs a proxy."
        return request.fault("dns", f"The name {request.host} cannot be resolved.", remedy)
    remedy = (
        "Check the URL and its port; if a firewall stands between, set HTTPS_PROXY or ask IT to allow it."
    )
    # NewConnectionError is a kind of ConnectTimeoutError in some versions of urllib3, so it comes first.
    if _find(error, ux.NewConnectionError) is not None:
        return request.fault("tcp", f"{request.origin} cannot be connected to ({_detail(error)}).", remedy)
    if isinstance(error, rx.ConnectTimeout):
        return request.fault("tcp", f"{request.origin} did not take the connection in time.", remedy)
    return None


def _timeout(error: Exception, request: _Request) -> Fault | None:
    if isinstance(error, rx.Timeout) or _find(error, ux.ReadTimeoutError) is not None:
        remedy = "Raise REQUEST_TIMEOUT if this happens often."
        return request.fault("timeout", f"{request.origin} did not answer in time.", remedy)
    return None


def _detail(error: BaseException) -> str:
    """Return what the innermost cause is: the system's own words, or the name of the exception's type."""
    inner = error
    for inner in _chain(error):
        if isinstance(inner, OSError) and not isinstance(inner, rx.RequestException) and inner.strerror:
            return str(inner.strerror).encode("ascii", "replace").decode()
    return type(inner).__name__


def _find(error: BaseException, kind: type[BaseException]) -> BaseException | None:
    return next((inner for inner in _chain(error) if isinstance(inner, kind)), None)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Walk from an exception to those that it wraps, in its arguments or attributes or as its cause."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        inner = waiting.pop(0)
        if isinstance(inner, BaseException) and id(inner) not in seen:
            seen.add(id(inner))
            yield inner
            named = (getattr(inner, name, None) for name in ("reason", "original_error", "__cause__"))
            waiting.extend((*inner.args, *named))


def _origin(url: str) -> str:
    """Return scheme, host and port of an address, and nothing else of it."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    host = f"[{host}]" if ":" in host else host
    try:
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        port = ""
    return f"{parts.scheme}://{host}{port}"
