"""`llmcli serve` as a process."""

import os
import re
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from tests.server.conftest import Reply


class Program:
    """A server as a process."""

    def __init__(self, model: Path, *args: str, **env: str) -> None:
        command = [sys.executable, "-m", "llmcli", "serve", "-m", str(model), "-t", "1", "--port", "0", *args]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | env)
        self.lines: list[str] = []
        self.port = int(self.line(r"http://127\.0\.0\.1:(\d+)")[1])

    def line(self, pattern: str) -> re.Match[str]:
        """The next line of stderr with this pattern."""
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError("".join(self.lines))

    def open(self, path: str, body: bytes | None = None, **headers: str) -> Any:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST" if body else "GET", path, body, headers)
        return connection, connection.getresponse()

    def request(self, path: str, body: bytes | None = None, **headers: str) -> Reply:
        connection, response = self.open(path, body, **headers)
        reply = Reply(
            response.status, {name.lower(): value for name, value in response.headers.items()}, response.read()
        )
        connection.close()
        return reply

    def end(self, seconds: float = 60.0) -> int:
        """The exit status, without a signal."""
        return self.process.wait(seconds)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stderr:
            self.process.stderr.close()
