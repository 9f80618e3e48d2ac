"""Submitting one body to the children endpoint: pacing, retries, and what became of it.

:class:`ApiClient` turns every reply and every fault of the network into an :class:`Outcome` (domain,
section 2). Whether to try again is decided by the status (:mod:`api_pipeline.outcomes`) or the kind of fault
alone; how long to wait, by Retry-After or a capped exponential; how often, by MAX_RETRIES, the deadline and
the stop event. It knows no database and no batch beyond the one in hand.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import requests
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from api_pipeline.auth import Client, TokenAuth, TokenRefused, TokenUnavailable
from api_pipeline.config import Settings
from api_pipeline.outcomes import (
    Outcome,
    ProbeResult,
    Problem,
    Verdict,
    is_unsure,
    status_problem,
    verdict_of,
)
from api_pipeline.replies import (
    ReplyKind,
    UnreadableReply,
    parse_receipts,
    parse_refusal,
    reply_kind,
    retry_after,
)
from api_pipeline.setting_values import Secret
from api_pipeline.transport import ConnectionFault, Route, Transport, proxy_login

__all__ = ["ApiClient", "ApiConfig", "Outcome", "ProbeResult", "Verdict"]

_log = logging.getLogger(__name__)

# A service that asks for a longer pause than this is not waited for (domain, section 2), in seconds.
LONGEST_RETRY_AFTER = 300.0

_INTERRUPTED = Problem("interrupt", "The run was asked to stop.", "")
_DEADLINE = Problem("deadline", "The run's deadline is too near to wait for the next attempt.", "")

_ordinary_wait = wait_exponential(multiplier=1, max=60)
# The firewall answers 403 to dense traffic, so these waits begin and end higher.
_forbidden_wait = wait_exponential(multiplier=5, max=120)


@dataclass(frozen=True, slots=True)
class ApiConfig:
    """What the client needs of the settings, by their names (interface, "Settings")."""

    children_url: str
    token_endpoint: str
    client_id: str
    client_secret: Secret
    scope: str
    supplier_key: Secret
    user_agent: str
    max_retries: int = 5
    request_timeout: float = 30.0
    min_request_gap_ms: int = 400
    https_proxy: Secret | None = None
    no_proxy: str | None = None
    ca_bundle: Path | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> ApiConfig:
        """Take the API's part of ``settings``."""
        return cls(**{name: getattr(settings, name) for name in cls.__slots__})


class _Passing(Exception):
    """An attempt failed in a way that may pass."""

    def __init__(
        self, problem: Problem, status: int | None, *, wait: float | None = None, token: bool = False
    ) -> None:
        super().__init__(problem.message)
        self.problem = problem
        self.status = status
        self.retry_after = wait
        self.token = token


class _Ended(Exception):
    """Nothing more can be done for this body, and ``verdict`` says what that means."""

    def __init__(self, verdict: Verdict, problem: Problem, status: int | None = None) -> None:
        super().__init__(problem.message)
        self.verdict = verdict
        self.problem = problem
        self.status = status


@dataclass
class _Job:
    """One body on its way, and what is known about it so far."""

    body: bytes
    count: int
    posts: int = 0
    failures: int = 0
    token_failures: int = 0
    token_refused: bool = False
    unsure: bool = False
    last_status: int | None = None
    spent: str = ""
    out_of_time: bool = False


class _Pace:
    """Keeps the starts of submissions apart, over all threads (MIN_REQUEST_GAP_MS)."""

    def __init__(self, gap: float, clock: Callable[[], float]) -> None:
        self._gap = gap
        self._clock = clock
        self._lock = threading.Lock()
        self._next = float("-inf")

    def claim(self) -> float:
        """Take the next start if it is due and return 0; else return the seconds until it is."""
        with self._lock:
            now = self._clock()
            if now < self._next:
                return self._next - now
            self._next = now + self._gap
            return 0.0

    def hold(self, seconds: float) -> None:
        """Let nobody start within the next ``seconds``."""
        with self._lock:
            self._next = max(self._next, self._clock() + seconds)


class ApiClient:
    """Submits bodies; safe to share between threads; a context manager that closes its connections.

    Args:
        stop: once set, every waiting ends at once; the request under way is finished.
        deadline: a moment of ``clock`` that no waiting may go past.
        clock: monotonic seconds.
        wall: seconds since the epoch, for a Retry-After that is a date.
        wait: waits for so many seconds, or until ``stop`` is set.
        jitter: the source of the randomness in waits.

    Raises:
        ConfigError: CA_BUNDLE cannot be read.
    """

    def __init__(
        self,
        config: ApiConfig,
        *,
        stop: threading.Event | None = None,
        deadline: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        wait: Callable[[float], object] | None = None,
        jitter: random.Random | None = None,
    ) -> None:
        self._config = config
        self._stop = stop or threading.Event()
        self._deadline = deadline
        self._clock = clock
        self._wall = wall
        self._wait = wait or self._stop.wait
        self._jitter = jitter or random.Random()  # noqa: S311 - spreads waits, guards nothing
        self._pace = _Pace(config.min_request_gap_ms / 1000, clock)
        self._headers = {"SupplierKey": config.supplier_key.reveal(), "Content-Type": "application/json"}
        self._transport = Transport(
            user_agent=config.user_agent,
            timeout=config.request_timeout,
            https_proxy=config.https_proxy.reveal() if config.https_proxy else None,
            no_proxy=config.no_proxy,
            ca_bundle=config.ca_bundle,
        )
        client = Client(config.token_endpoint, config.client_id, config.client_secret.reveal(), config.scope)
        self._auth = TokenAuth(self._transport, client, clock=clock, wall=wall)
        self.routes()  # chosen here, before threads share the client: the look-up touches the environment

    def __enter__(self) -> ApiClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def routes(self) -> dict[str, Route]:
        """Return how ``token`` and ``children`` are reached: directly or by which proxy, and why."""
        urls = {"token": self._config.token_endpoint, "children": self._config.children_url}
        return {name: self._transport.route(url) for name, url in urls.items()}

    def submit(self, body: bytes, count: int) -> Outcome:
        """Post ``body``, an array of ``count`` records, until its fate is known or no attempt is left.

        Every attempt sends the same bytes. Nothing that the network or the API does raises.
        """
        job = _Job(body, count)
        retrying = Retrying(
            retry=retry_if_exception_type(_Passing),
            wait=self._wait_time,
            stop=lambda state: self._is_spent(job, state),
            before_sleep=lambda state: self._before_wait(job, state),
            sleep=self._pause,
            retry_error_callback=lambda state: self._exhausted(job, state),
        )
        try:
            return retrying(self._attempt, job)
        except TokenRefused as error:
            problem = _problem_of(error)
            return _outcome(job, Verdict.RUN_ENDED, problem, error.status)
        except _Ended as ended:
            return _outcome(job, ended.verdict, ended.problem, ended.status or job.last_status)

    def probe(self) -> ProbeResult:
        """Fetch a token and post an empty array, once each (interface, "Commands": ``test-endpoint``)."""
        begun = self._clock()
        try:
            self._auth.token()
        except (TokenRefused, TokenUnavailable) as error:
            problem = _problem_of(error)
            return self._probed(problem, error.status, begun, self._clock())
        sent = self._clock()
        self._pace.hold(self._config.min_request_gap_ms / 1000)
        try:
            reply = self._transport.post(
                self._config.children_url, b"[]", headers=self._headers, auth=self._auth
            )
        except ConnectionFault as error:
            return self._probed(_problem_of(error), None, begun, sent)
        except (TokenRefused, TokenUnavailable) as error:  # pragma: no cover - a token that lives a second
            return self._probed(_problem_of(error), error.status, begun, sent)
        status = reply.status_code
        portal = status == 200 and _kind(reply) == "html"
        if status in (200, 204, 400, 422) and not portal:
            return self._probed(None, status, begun, sent)
        return self._probed(self._problem(reply), status, begun, sent)

    def _probed(self, problem: Problem | None, status: int | None, begun: float, sent: float) -> ProbeResult:
        token_ms, ms = (sent - begun) * 1000, (self._clock() - sent) * 1000
        if problem is None:
            message = f"The token was issued and the API answered {status} to an empty array."
            return ProbeResult(True, "", message, "", status, token_ms, ms)
        return ProbeResult(False, problem.hop, problem.message, problem.remedy, status, token_ms, ms)

    # One attempt

    def _attempt(self, job: _Job) -> Outcome:
        """Post once, or twice where a first 401 asks for another token, and judge the reply."""
        reply = self._post(job)
        while reply.status_code == 401:
            if job.token_refused:
                raise _Ended(Verdict.RUN_ENDED, self._problem(reply), 401)
            job.token_refused = True
            self._auth.invalidate(reply.request.headers["Authorization"].removeprefix("Bearer "))
            _log.info("The API refused the token (401): it is renewed and the batch sent again.")
            reply = self._post(job)
        job.token_refused = False
        return self._judge(job, reply)

    def _post(self, job: _Job) -> requests.Response:
        try:
            self._await_turn()
            job.posts += 1
            try:
                reply = self._transport.post(
                    self._config.children_url, job.body, headers=self._headers, auth=self._auth
                )
            except (TokenRefused, TokenUnavailable):
                job.posts -= 1  # another worker's 401 took the token away meanwhile: nothing was sent
                raise
        except TokenUnavailable as error:
            job.token_failures += 1
            problem = _problem_of(error)
            raise _Passing(problem, error.status, wait=error.retry_after, token=True) from None
        except ConnectionFault as error:
            job.unsure = job.unsure or error.fault.sent
            job.token_refused = False
            job.last_status = None
            if error.fault.lasting:
                raise _Ended(Verdict.RUN_ENDED, _problem_of(error)) from None
            job.failures += 1
            raise _Passing(_problem_of(error), None) from None
        job.last_status = reply.status_code
        return reply

    def _await_turn(self) -> None:
        """Wait for the next start that the pace allows, with a valid token in hand: tokens are not paced."""
        while True:
            if self._stop.is_set():
                raise _Ended(Verdict.INTERRUPTED, _INTERRUPTED)
            self._auth.token()
            seconds = self._pace.claim()
            if seconds <= 0:
                return
            self._pause(seconds)

    def _pause(self, seconds: float) -> None:
        """Wait, but never past the deadline and not after a request to stop."""
        if self._is_past_deadline(seconds):
            raise _Ended(Verdict.GIVEN_UP, _DEADLINE)
        if not self._stop.is_set():
            self._wait(seconds)
        if self._stop.is_set():
            raise _Ended(Verdict.INTERRUPTED, _INTERRUPTED)

    def _is_past_deadline(self, seconds: float) -> bool:
        return self._deadline is not None and self._clock() + seconds > self._deadline

    def _judge(self, job: _Job, reply: requests.Response) -> Outcome:
        """Say what a reply means (domain, section 2, "Known replies")."""
        status, body = reply.status_code, reply.content
        if status == 200:
            try:
                receipts = parse_receipts(body, job.count)
            except UnreadableReply as error:
                job.unsure = True
                job.failures += 1
                raise _Passing(status_problem(status, _kind(reply), str(error)), status) from None
            return Outcome(Verdict.ACCEPTED, status, job.posts, unsure=False, receipts=receipts)
        problem = self._problem(reply)
        verdict = verdict_of(status)
        if verdict is None:
            job.unsure = job.unsure or is_unsure(status)
            job.failures += 1
            wait = retry_after(reply.headers.get("Retry-After"), self._wall())
            raise _Passing(problem, status, wait=wait)
        if verdict is Verdict.RUN_ENDED:
            raise _Ended(verdict, problem, status)
        return Outcome(
            verdict,
            status,
            job.posts,
            job.unsure,
            refusals=parse_refusal(body, job.count) if verdict is Verdict.REFUSED else {},
            reply_text=body.decode("utf-8-sig", "replace").strip(),
            reason=problem.message,
            hop=problem.hop,
            remedy=problem.remedy,
        )

    def _problem(self, reply: requests.Response) -> Problem:
        if reply.status_code == 407:
            url = self._config.children_url
            fault = proxy_login(url, self._transport.route(url), sent=True)
            return Problem(fault.hop, fault.message, fault.remedy)
        return status_problem(reply.status_code, _kind(reply))

    # Between attempts: the rules that tenacity asks

    def _wait_time(self, state: RetryCallState) -> float:
        failure = _failure(state)
        if failure.retry_after is not None:
            return failure.retry_after
        if failure.status == 403 and not failure.token:
            return _forbidden_wait(state)
        return _ordinary_wait(state) * self._jitter.uniform(0.5, 1.0)

    def _is_spent(self, job: _Job, state: RetryCallState) -> bool:
        """Whether no further attempt is made; ``job.spent`` then says why."""
        failure = _failure(state)
        tries = job.token_failures if failure.token else job.failures
        if tries >= self._config.max_retries:
            job.spent = f"Given up after {tries} attempts." if tries > 1 else "Given up after one attempt."
        elif failure.retry_after is not None and failure.retry_after > LONGEST_RETRY_AFTER:
            job.spent = f"It asks for a wait of {failure.retry_after:.0f} s, which is too long."
        elif self._is_past_deadline(state.upcoming_sleep):
            job.out_of_time = True
            job.spent = _DEADLINE.message
        return bool(job.spent)

    def _before_wait(self, job: _Job, state: RetryCallState) -> None:
        failure, seconds = _failure(state), state.upcoming_sleep
        tries = job.token_failures if failure.token else job.failures
        # A service that slows one worker down means all of them.
        if not failure.token and (failure.status in (403, 429) or failure.retry_after is not None):
            self._pace.hold(seconds)
        if not self._stop.is_set():
            text, limit = failure.problem, self._config.max_retries
            _log.warning(
                "Attempt %d of %d failed (%s): %s Next in %.1f s.",
                tries,
                limit,
                text.hop,
                text.message,
                seconds,
            )

    def _exhausted(self, job: _Job, state: RetryCallState) -> Outcome:
        failure = _failure(state)
        ends_run = (failure.token or failure.status == 403) and not job.out_of_time
        problem = failure.problem
        problem = Problem(problem.hop, f"{problem.message} {job.spent}", problem.remedy)
        return _outcome(job, Verdict.RUN_ENDED if ends_run else Verdict.GIVEN_UP, problem, failure.status)


def _failure(state: RetryCallState) -> _Passing:
    error = state.outcome.exception() if state.outcome is not None else None
    if not isinstance(error, _Passing):  # pragma: no cover - nothing else is retried
        raise TypeError("only passing failures are retried") from error
    return error


def _outcome(job: _Job, verdict: Verdict, problem: Problem, status: int | None) -> Outcome:
    return Outcome(
        verdict,
        status,
        job.posts,
        job.unsure,
        reason=problem.message,
        hop=problem.hop,
        remedy=problem.remedy,
    )


def _kind(reply: requests.Response) -> ReplyKind:
    return reply_kind(reply.headers.get("Content-Type"), reply.content)


def _problem_of(error: ConnectionFault | TokenRefused | TokenUnavailable) -> Problem:
    found = error.fault if isinstance(error, ConnectionFault) else error
    return Problem(found.hop, found.message, found.remedy)
