"""A headless Chromium for the tests, driven through its DevTools protocol over two pipes.

No driver and no port: the browser is a child process that lives as long as the ``with`` block.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_SECONDS = 30  # for the browser to end once it was told to


def program() -> str | None:
    """Return the browser of this machine."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Page:
    """One tab."""

    def __init__(self, commands: int, replies: int) -> None:
        self._commands = commands
        self._replies = replies
        self._rest = b""
        self._session: str | None = None
        self._numbers = itertools.count(1)
        self.events: list[dict[str, Any]] = []

    def attach(self) -> None:
        """Open the tab."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and return its result; what happens meanwhile is kept in ``events``."""
        number = next(self._numbers)
        message: dict[str, Any] = {"id": number, "method": method, "params": params}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            found = self._receive()
            if found.get("id") == number:
                assert "error" not in found, found
                result: dict[str, Any] = found["result"]
                return result
            self.events.append(found)

    def _receive(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            part = os.read(self._replies, 1 << 16)
            assert part, "the browser has ended"
            self._rest += part
        text, _, self._rest = self._rest.partition(b"\0")
        found: dict[str, Any] = json.loads(text)
        return found

    def open(self, path: Path) -> None:
        """Show a file and wait until it is there."""
        self.call("Page.navigate", url=path.absolute().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())

    def show(self, width: int, *, dark: bool = False, media: str = "screen", forced: bool = False) -> None:
        """Choose the width of the window in pixels, the scheme of colours and the medium."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"},
            {"name": "forced-colors", "value": "active" if forced else "none"},
        ]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def ask(self, script: str) -> Any:
        """Return the value of an expression of JavaScript."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """Write the whole page as a PNG, for people to look at."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))

    def methods(self, name: str) -> list[dict[str, Any]]:
        """Return the parameters of all events of one kind so far."""
        return [event["params"] for event in self.events if event.get("method") == name]


@contextmanager
def opened(folder: Path) -> Iterator[Page]:
    """Start the browser with a profile in ``folder`` and yield a tab."""
    browser = program()
    assert browser is not None
    command_reader, command_writer = os.pipe()
    reply_reader, reply_writer = os.pipe()

    def take_pipes() -> None:
        # The browser wants them as 3 and 4, where one of ours may be: out of the way first.
        commands, replies = os.dup(command_reader), os.dup(reply_writer)
        os.dup2(commands, 3, inheritable=True)
        os.dup2(replies, 4, inheritable=True)

    process = subprocess.Popen(
        [
            *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"),
            *("--disable-dev-shm-usage", "--no-first-run", "--disable-extensions", "--hide-scrollbars"),
            *("--disable-background-networking", f"--user-data-dir={folder / 'profile'}", "about:blank"),
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=take_pipes,  # noqa: PLW1509 -- pipes under given numbers cannot be had otherwise
    )
    os.close(command_reader)
    os.close(reply_writer)
    page = Page(command_writer, reply_reader)
    try:
        page.attach()
        yield page
    finally:
        os.close(command_writer)
        os.close(reply_reader)
        process.terminate()
        try:
            process.wait(_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
