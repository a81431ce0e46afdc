"""A headless Chromium that tests drive over its DevTools protocol, by a pair of pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--hide-scrollbars",
    "--disable-extensions", "--disable-background-networking", "--remote-debugging-pipe",
)  # fmt: skip
_PATIENCE = 120.0
"""Seconds to wait for an answer: other tests may keep the processor busy."""


class Page:
    """One page of a browser. `errors` are the exceptions of its scripts, `requests` the addresses that it read."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._buffer = b""
        self._number = 0
        self._session: dict[str, str] = {}
        self.errors: list[str] = []
        self.requests: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """The result of a method of the protocol."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters, **self._session}
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            if not select.select([self._back], [], [], _PATIENCE)[0]:
                raise TimeoutError(f"Chromium was silent for {_PATIENCE:g} s")
            part = os.read(self._back, 1 << 20)
            if not part:
                raise RuntimeError("Chromium ended")
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        answer: dict[str, Any] = json.loads(line)
        if answer.get("method") == "Runtime.exceptionThrown":
            self.errors.append(json.dumps(answer["params"]["exceptionDetails"]))
        elif answer.get("method") == "Network.requestWillBeSent":
            self.requests.append(answer["params"]["request"]["url"])
        return answer

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, and whether the person prefers dark pages."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def open(self, path: Path) -> None:
        """Open a file, as a double click does."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.until("document.readyState === 'complete'")

    def value(self, expression: str) -> Any:
        """What a JavaScript expression gives; a promise is awaited."""
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {json.dumps(found['exceptionDetails'])}")
        return found["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a JavaScript expression holds."""
        end = time.monotonic() + _PATIENCE
        while not self.value(f"Boolean({condition})"):
            if time.monotonic() > end:
                raise TimeoutError(f"{condition} did not hold within {_PATIENCE:g} s")
            time.sleep(0.05)

    def stroke(self, points: Sequence[tuple[float, float]], *, finger: bool = False) -> None:
        """Draw through points of the window, with the mouse's button pressed or with a finger."""
        kinds = ["Pressed", *["Moved"] * (len(points) - 1)]
        for kind, (x, y) in zip(kinds, points, strict=True):
            if finger:
                name = "touchStart" if kind == "Pressed" else "touchMove"
                self.call("Input.dispatchTouchEvent", type=name, touchPoints=[{"x": x, "y": y}])
            else:
                self._mouse(kind, x, y)
        if finger:
            self.call("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
        else:
            self._mouse("Released", *points[-1])

    def _mouse(self, kind: str, x: float, y: float) -> None:
        held = {"button": "left", "buttons": 1, "clickCount": 1}
        self.call("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **held)

    def key(self, key: str, *, shift: bool = False) -> None:
        """Press a key, named as JavaScript names it."""
        held = {"key": key, "modifiers": 8 if shift else 0}
        self.call("Input.dispatchKeyEvent", type="keyDown", **held)
        self.call("Input.dispatchKeyEvent", type="keyUp", **held)

    def screenshot(self, path: Path) -> None:
        """The whole page as PNG."""
        picture = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(picture["data"]))


@contextmanager
def chromium(profile: Path) -> Iterator[Page]:
    """A page of a Chromium of its own, whose profile is in an empty folder."""
    assert CHROMIUM is not None
    read_there, to = os.pipe()
    back, write_there = os.pipe()
    # The browser reads 3 and writes 4; copies above both are not overwritten by each other.
    there = [fcntl.fcntl(each, fcntl.F_DUPFD_CLOEXEC, 10) for each in (read_there, write_there)]
    log = os.open(profile / "log.txt", os.O_WRONLY | os.O_CREAT)
    process = os.posix_spawn(
        CHROMIUM, [CHROMIUM, *_FLAGS, f"--user-data-dir={profile}"], os.environ,
        file_actions=[
            (os.POSIX_SPAWN_DUP2, there[0], 3),
            (os.POSIX_SPAWN_DUP2, there[1], 4),
            (os.POSIX_SPAWN_DUP2, log, 1),
            (os.POSIX_SPAWN_DUP2, log, 2),
        ],
        setpgroup=0,
    )  # fmt: skip
    for each in (*there, read_there, write_there, log):
        os.close(each)
    try:
        page = Page(to, back)
        yield page
        with suppress(RuntimeError):
            page._session = {}
            page.call("Browser.close")
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        os.close(to)
        os.close(back)
