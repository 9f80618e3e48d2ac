"""Faults on request: what the receiver can be told to do wrong, how often, and to which requests.

A fault is plain data. ``FAULTS`` is the one table of kinds; documentation, ``--help`` and the message for
an unknown kind all come from it. How a kind looks on the wire is in ``receiver_replies``.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from api_pipeline.errors import ConfigError

Endpoint = Literal["children", "token"]

ANY_STATUS = "NNN"
_LONGEST_WAIT = 86_400
_STATUS = re.compile(r"[45]\d\d", re.ASCII)


@dataclass(frozen=True)
class _Kind:
    """What a kind is for; ``takes``: the batch is taken before the reply is spoiled."""

    help: str
    takes: bool = False
    at_token: bool = True


_KINDS: dict[str, _Kind] = {
    "204": _Kind("204 with no content; nothing is taken"),
    "302": _Kind("a redirect to a page that answers 200, as a sign-in page does"),
    "400": _Kind("400 that names no record"),
    "400-record": _Kind("400 that names child=ID, without it the first record", at_token=False),
    "401": _Kind("401, and every token issued so far stops working"),
    "403": _Kind("403 as JSON, as the API refuses"),
    "403-html": _Kind("403 as an HTML page, as a web firewall refuses"),
    "413": _Kind("413; with records=N only for a batch of more than N records"),
    "422": _Kind("422 that names no record"),
    "422-record": _Kind("422 that names child=ID, without it the first record", at_token=False),
    "429": _Kind("too many requests; add retry-after=SECONDS or retry-at=SECONDS (sent as a date)"),
    ANY_STATUS: _Kind("any other status from 400 to 599 as JSON, such as 404, 408, 500, 503 or 504"),
    "html": _Kind("200 with an HTML page, as a captive portal gives; nothing is taken"),
    "object": _Kind("200 with a JSON object in place of the receipts", takes=True),
    "empty": _Kind("200 with an empty body", takes=True),
    "missing-receipt": _Kind("200 with one receipt too few", takes=True, at_token=False),
    "extra-receipt": _Kind("200 with one receipt too many", takes=True, at_token=False),
    "cut-off": _Kind("200 whose body ends half way", takes=True),
    "spaced": _Kind("200 with receipts apart by white space, not a JSON array", takes=True, at_token=False),
    "no-suffix": _Kind("200 with receipts that do not end in .json", takes=True, at_token=False),
    "reset": _Kind("the connection is reset before anything is taken"),
    "lost-reply": _Kind("the batch is taken, then the connection closes without a reply", takes=True),
    "delay": _Kind("the right reply, after seconds=S", takes=True),
}

FAULTS: Mapping[str, str] = {name: kind.help for name, kind in _KINDS.items()}
"""Each kind of fault and what it does, in one line."""

SYNTAX = "KIND[:TIMES][:NAME=VALUE]..."
"""How a fault is written on the command line; ``503:2``, ``429:1:retry-after=2``, ``token/401``."""


@dataclass(frozen=True)
class Fault:
    """One fault.

    Args:
        kind: a key of ``FAULTS``, or a status from 400 to 599.
        times: how many requests it spoils; None means every one.
        after: how many requests to the endpoint it lets pass first.
        at: the endpoint that it applies to.
        retry_after: the Retry-After header, in seconds or as the text to send.
        retry_at: the same as an HTTP date, that many seconds from the receiver's clock.
        seconds: wait that long before the reply.
        records: only batches of more than this many records.
        child: only batches that hold this ``la_child_id``.
        taken: whether the batch is taken all the same; None means as the kind does by itself.

    A kind that takes the batch waits for a request that the receiver would have accepted.

    Raises:
        ConfigError: for an unknown kind, or values that make no sense for it.
    """

    kind: str
    times: int | None = 1
    after: int = 0
    at: Endpoint = "children"
    retry_after: int | str | None = None
    retry_at: int | None = None
    seconds: float = 0.0
    records: int | None = None
    child: str | None = None
    taken: bool | None = None

    def __post_init__(self) -> None:
        known = _KINDS.get(self._row)
        if known is None or self.kind == ANY_STATUS:
            raise _unusable(f"There is no fault of the kind {self.kind!r}.")
        if self.at not in ("children", "token"):
            raise _unusable(f"There is no endpoint {self.at!r}; it is children or token.")
        if self.at == "token" and not known.at_token:
            raise _unusable(f"The fault {self.kind} does not fit the token endpoint.")
        if self.at == "token" and (self.records is not None or self.child is not None):
            raise _unusable("records= and child= do not fit the token endpoint.")
        if self.times is not None and self.times < 1:
            raise _unusable("A fault needs to happen at least once; write always for every time.")
        if self.after < 0 or not 0 <= self.seconds <= _LONGEST_WAIT:
            raise _unusable(f"after= and seconds= cannot be negative, nor seconds= over {_LONGEST_WAIT}.")

    @property
    def _row(self) -> str:
        if self.kind in _KINDS:
            return self.kind
        return ANY_STATUS if _STATUS.fullmatch(self.kind) else ""

    @property
    def takes(self) -> bool:
        """Whether the receiver takes the batch before it spoils the reply."""
        return _KINDS[self._row].takes if self.taken is None else self.taken

    @property
    def needs_accepted(self) -> bool:
        """Whether it waits for a request that the receiver would have accepted."""
        return self.takes or _KINDS[self._row].takes

    def fits(self, batch: Sequence[Any], *, accepted: bool) -> bool:
        """Whether this fault may spoil ``batch``, which the receiver would have ``accepted`` or not."""
        if self.needs_accepted and not accepted:
            return False
        if self.records is not None and len(batch) <= self.records:
            return False
        return self.child is None or self.child in map(child_id, batch)


def child_id(record: Any) -> Any:
    """Return the record's ``la_child_id``, None where it has none or is not an object."""
    return record.get("la_child_id") if isinstance(record, dict) else None


def parse_fault(text: str) -> Fault:
    """Read a fault from the command line: ``KIND[:TIMES][:NAME=VALUE]...``.

    ``TIMES`` is a number or ``always``; a kind that begins with ``token/`` applies to the token endpoint.

    Raises:
        ConfigError: naming what cannot be read, with the list of kinds.
    """
    head, *rest = (part.strip() for part in text.split(":"))
    at: Endpoint = "children"
    if head.startswith("token/"):
        at, head = "token", head.removeprefix("token/")
    values: dict[str, Any] = {"kind": head, "at": at}
    if rest and "=" not in rest[0]:
        times = rest.pop(0)
        values["times"] = None if times == "always" else _number(int, times, "The number of times")
    for option in rest:
        name, separator, value = option.partition("=")
        read = _OPTIONS.get(name)
        if not separator or read is None:
            raise _unusable(f"{option!r} is no option of a fault; those are {', '.join(_OPTIONS)}.")
        values[name.replace("-", "_")] = read(value)
    return Fault(**values)


class FaultQueue:
    """The faults still to happen, in order; the first that fits a request is the one. Thread-safe."""

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        self._lock = threading.Lock()
        self._waiting: list[Fault] = []
        self.add(*faults)

    def add(self, *faults: Fault) -> None:
        """Append ``faults``; their ``after`` counts from now."""
        with self._lock:
            self._waiting.extend(faults)

    def clear(self) -> None:
        """Forget every fault that has not happened."""
        with self._lock:
            self._waiting.clear()

    @property
    def left(self) -> tuple[Fault, ...]:
        """The faults still to happen, each with what is left of its ``times`` and ``after``."""
        with self._lock:
            return tuple(self._waiting)

    def take(self, at: Endpoint, batch: Sequence[Any], *, accepted: bool) -> Fault | None:
        """Return the fault that spoils this request, None if there is none, and count it.

        Args:
            at: the endpoint that was asked.
            batch: the records that came, as far as they could be read.
            accepted: whether the receiver would accept them.
        """
        chosen: Fault | None = None
        waiting: list[Fault] = []
        with self._lock:
            for fault in self._waiting:
                left: Fault | None = fault
                if fault.at == at and fault.after:
                    left = replace(fault, after=fault.after - 1)
                elif chosen is None and fault.at == at and fault.fits(batch, accepted=accepted):
                    chosen = fault
                    left = _once_less(fault)
                if left is not None:
                    waiting.append(left)
            self._waiting = waiting
        return chosen


def _once_less(fault: Fault) -> Fault | None:
    if fault.times is None:
        return fault
    return replace(fault, times=fault.times - 1) if fault.times > 1 else None


def _number(kind: type[int] | type[float], text: str, what: str) -> int | float:
    try:
        return kind(text)
    except ValueError:
        raise _unusable(f"{what} is not a number: {text!r}.") from None


def _integer(name: str) -> Callable[[str], Any]:
    return lambda text: _number(int, text, f"{name}=")


def _yes_or_no(text: str) -> bool:
    if text not in ("yes", "no"):
        raise _unusable("taken= is yes or no.")
    return text == "yes"


_OPTIONS: dict[str, Callable[[str], Any]] = {
    "after": _integer("after"),
    "retry-after": str,
    "retry-at": _integer("retry-at"),
    "seconds": lambda text: _number(float, text, "seconds="),
    "records": _integer("records"),
    "child": str,
    "taken": _yes_or_no,
}


def _unusable(message: str) -> ConfigError:
    return ConfigError(
        message,
        hop="fault",
        remedy=f"Write {SYNTAX}; the kinds are {', '.join(FAULTS)} ({ANY_STATUS}: a status from 400 to 599).",
    )
