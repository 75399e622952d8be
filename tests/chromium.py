"""A headless Chromium that tests talk to over two pipes, in the protocol of its developer tools; no further package."""

import json
import os
import select
import shutil
import subprocess
from base64 import b64decode
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    *("--headless=new", "--remote-debugging-pipe", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-default-browser-check", "--hide-scrollbars", "--mute-audio"),
)
PATIENCE = 120  # seconds


def chromium() -> str | None:
    """The program, if it is installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


class Browser:
    """One process with one page in it. What the page complains of is collected in ``complaints``."""

    def __init__(self, program: str, profile: Path) -> None:
        ours, theirs = os.pipe(), os.pipe()  # what it reads, what it writes
        line = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"]
        # it reads from descriptor 3 and writes to 4, whatever numbers the pipes have here
        script = f'exec 3<&{ours[0]} 4>&{theirs[1]}; exec "$0" "$@"'
        self._process = subprocess.Popen(
            ["bash", "-c", script, *line],
            pass_fds=(ours[0], theirs[1]),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._out, self._in = os.fdopen(ours[1], "wb", buffering=0), os.fdopen(theirs[0], "rb")
        self._buffer, self._number, self._session = b"", 0, ""
        self._events: list[dict[str, Any]] = []
        self.complaints: list[str] = []
        try:
            self._begin()
        except (OSError, EOFError):
            self.close()
            raise

    def _begin(self) -> None:
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> "Browser":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if it has not ended."""
        try:
            self._session = ""
            self.call("Browser.close")
            self._process.wait(10)
        except (OSError, EOFError, subprocess.TimeoutExpired):
            self._process.kill()
            self._process.wait()
        self._out.close()
        self._in.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """What a command of the protocol returns."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        self._out.write(json.dumps(message | ({"sessionId": self._session} if self._session else {})).encode() + b"\0")
        while (found := self._read()).get("id") != self._number:
            self._note(found)
        assert "error" not in found, (method, found)
        result: dict[str, Any] = found["result"]
        return result

    def resize(self, width: int) -> None:
        """Make the page so many pixels wide."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def open(self, url: str) -> None:
        """Load a page, and wait until all of it is there; the complaints are its own."""
        self.complaints.clear()
        self._events.clear()
        self.call("Page.navigate", url=url)
        while not any(event["method"] == "Page.loadEventFired" for event in self._events):
            self._note(self._read())

    def value(self, script: str) -> Any:
        """What an expression, or the promise that it is, comes to."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def picture(self, path: Path) -> None:
        """The whole page as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(b64decode(found["data"]))

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], PATIENCE)
            more = os.read(self._in.fileno(), 1 << 20) if ready else b""
            if not more:
                raise EOFError("Chromium has ended" if ready else f"Chromium has said nothing for {PATIENCE} s")
            self._buffer += more
        line, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        if "method" not in event:
            return
        self._events.append(event)
        params = event["params"]
        if event["method"] == "Runtime.exceptionThrown":
            self.complaints.append(str(params["exceptionDetails"]))
        if event["method"] == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
            self.complaints.append(str(params["args"]))
        if event["method"] == "Log.entryAdded" and params["entry"]["level"] == "error":
            self.complaints.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")
        if event["method"] == "Network.loadingFailed" and not params.get("canceled"):
            self.complaints.append(params["errorText"])
