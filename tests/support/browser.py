"""A real browser without a window, driven over its debugging protocol: Debian's Chromium, or Chrome."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import shutil
import subprocess
import time
from pathlib import Path

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions"),
    *("--disable-dev-shm-usage", "--remote-debugging-port=0", "--force-color-profile=srgb", "--hide-scrollbars"),
)
PATIENCE = 60.0  # seconds for an answer

needs_browser = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")


class Page:
    """One tab. ``said`` is what its console and its program complain of, ``asked`` the addresses that it asked for."""

    def __init__(self, socket, session):
        self.socket, self.session = socket, session
        self.numbers = itertools.count(1)
        self.said, self.asked, self.loaded = [], [], 0
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method, **arguments):
        number = next(self.numbers)
        message = {"id": number, "method": method, "params": arguments, "sessionId": self.session}
        self.socket.send(json.dumps(message))
        while True:
            found = json.loads(self.socket.recv(timeout=PATIENCE))
            if found.get("id") == number and found.get("sessionId") == self.session:
                assert "error" not in found, (method, found["error"])
                return found["result"]
            self.hear(found)

    def hear(self, event):
        name, what = event.get("method"), event.get("params", {})
        if name == "Runtime.exceptionThrown":
            self.said.append(what["exceptionDetails"].get("exception", {}).get("description") or str(what))
        elif name == "Runtime.consoleAPICalled":
            self.said.append(str([one.get("value") for one in what["args"]]))
        elif name == "Log.entryAdded":
            self.said.append(what["entry"]["text"])
        elif name == "Network.requestWillBeSent" and not what["request"]["url"].startswith("data:"):
            self.asked.append(what["request"]["url"])
        elif name == "Page.loadEventFired":
            self.loaded += 1

    def open(self, address, width=1400, height=1000, dark=False):
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self.call("Emulation.setEmulatedMedia", features=scheme)
        before = self.loaded
        self.call("Page.navigate", url=str(address))
        while self.loaded == before:
            self.hear(json.loads(self.socket.recv(timeout=PATIENCE)))
        return self

    def run(self, program):
        """The value of an expression, which may be a promise."""
        found = self.call("Runtime.evaluate", expression=program, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def texts(self, selector):
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map((one) => one.textContent)")

    def wait(self, program, seconds=20.0):
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(program):
            assert time.monotonic() < end, (program, self.said)
            time.sleep(0.05)

    def picture(self, path, whole=True):
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        Path(path).write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def browser(folder):
    """A browser whose files lie in a folder; gives a function that opens tabs."""
    from websockets.sync.client import connect

    command = [BROWSER, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port, end = Path(folder) / "DevToolsActivePort", time.monotonic() + PATIENCE
        while not port.exists() or len(port.read_text().split()) < 2:
            assert time.monotonic() < end
            assert process.poll() is None
            time.sleep(0.05)
        number, path = port.read_text().split()
        with connect(f"ws://127.0.0.1:{number}{path}", max_size=2**28, proxy=None) as socket:
            counter = itertools.count(10**6)

            def tab():
                answers = []
                for method, arguments in (
                    ("Target.createTarget", {"url": "about:blank"}),
                    ("Target.attachToTarget", {"flatten": True}),
                ):
                    given = arguments | (answers[-1] if answers else {})
                    socket.send(json.dumps({"id": (number := next(counter)), "method": method, "params": given}))
                    while (found := json.loads(socket.recv(timeout=PATIENCE))).get("id") != number:
                        pass
                    answers.append(found["result"])
                return Page(socket, answers[-1]["sessionId"])

            yield tab
    finally:
        process.terminate()
        process.wait(20)
