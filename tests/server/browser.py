"""A headless Chromium, driven over its debugging pipe (Chrome DevTools Protocol), without further packages."""

import base64
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Any

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)


class Browser:
    """One page in a browser. Commands are named as in the protocol."""

    def __init__(self, reader: FileIO, write: int) -> None:
        self._read, self._write, self._rest = reader, write, b""
        self._n_sent = 0
        self._session = ""
        self.errors: list[str] = []  # of scripts and of the content security policy
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def send(self, method: str, **parameters: Any) -> Any:
        """Send a command, and return its result."""
        self._n_sent += 1
        message = {"id": self._n_sent, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            got = self._receive()
            if got.get("method") == "Runtime.exceptionThrown":
                self.errors.append(str(got["params"]["exceptionDetails"]))
            if got.get("method") == "Log.entryAdded" and got["params"]["entry"]["level"] == "error":
                self.errors.append(str(got["params"]["entry"]["text"]))
            if got.get("id") == self._n_sent:
                assert "error" not in got, got["error"]
                return got["result"]

    def _receive(self) -> Any:
        while b"\0" not in self._rest:
            chunk = self._read.read(1 << 16)
            assert chunk, "the browser has ended"
            self._rest += chunk
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 60.0) -> Any:
        """The value of an expression, once it is true."""
        deadline = time.monotonic() + seconds
        while not (value := self.run(script)):
            assert time.monotonic() < deadline, f"not true: {script}"
            time.sleep(0.05)
        return value

    def open(self, url: str) -> None:
        """Go to a page; errors of the one before do not count."""
        self.send("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")
        self.errors.clear()

    def type(self, text: str) -> None:
        """Type into what has the focus."""
        self.send("Input.insertText", text=text)

    def press(self, key: str) -> None:
        """Press a key such as Enter, Tab, Escape or ArrowRight."""
        code = {"Enter": 13, "Tab": 9, "Escape": 27, "ArrowRight": 39, "ArrowLeft": 37}[key]
        text = {"text": "\r"} if key == "Enter" else {}
        for kind in ("keyDown", "keyUp"):
            details: dict[str, Any] = {"key": key, "code": key, "windowsVirtualKeyCode": code}
            self.send("Input.dispatchKeyEvent", type=kind, **details, **(text if kind == "keyDown" else {}))

    def picture(self, path: Path) -> None:
        """Save a screenshot."""
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot")["data"]))

    def show(self, width: int, scheme: str) -> None:
        """The width of the window, and the color scheme: light or dark."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=800, deviceScaleFactor=1, mobile=False)
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, until the end of the block."""
    to_browser, write = os.pipe()
    read, from_browser = os.pipe()
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={profile}"]
    # The pipe must be the descriptors 3 and 4: copied from above, as either may be one of the two already.
    code = "import os, sys; a, b = (os.dup2(int(n), 50 + i) for i, n in enumerate(sys.argv[1:3])); "
    code += "os.dup2(a, 3); os.dup2(b, 4); os.execv(sys.argv[3], sys.argv[3:])"
    command = [sys.executable, "-c", code, str(to_browser), str(from_browser), CHROMIUM, *options]
    process = subprocess.Popen(
        command, pass_fds=(to_browser, from_browser), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(to_browser)
    os.close(from_browser)
    reader = os.fdopen(read, "rb", buffering=0)
    try:
        yield Browser(reader, write)
    finally:
        process.terminate()
        process.wait(60)
        os.close(write)
        reader.close()
