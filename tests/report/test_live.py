"""The live page: it follows what is written, answers those who may ask alone, and harms nothing."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import signal
import time

import pytest

from marl.logs.metrics import line_of, read_metrics
from tests.support.browser import browser, needs_browser
from tests.support.commands import SCENARIO, finish, start

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")


def logged(folder, rows):
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "metrics.jsonl").open("ab") as file:
        file.writelines(line_of(row) for row in rows)


def rows(begin, end):
    return [{"steps": 100 * n, "mean_return": n / 2} for n in range(begin, end)]


@pytest.fixture(scope="module")
def viewer(tmp_path_factory):
    """A viewer of a folder with one run: the folder, the address, and its process."""
    folder = tmp_path_factory.mktemp("view") / "runs"
    logged(folder / "one", rows(1, 20))
    process = start("view", folder, "--json")
    address = json.loads(process.stdout.readline())["url"]
    yield folder, address, process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        assert finish(process, 30).code in (0, 130)


def ask(address, path="/content", token=None, method="GET", **headers):
    place, own = address.removeprefix("http://").split("/?token=")
    connection = http.client.HTTPConnection(place, timeout=30)
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request(method, path, headers={"Authorization": f"Bearer {own if token is None else token}", **named})
    answer = connection.getresponse()
    data = answer.read()
    connection.close()
    return answer.status, dict(answer.getheaders()), data


def test_only_who_knows_the_token_and_calls_it_by_its_own_name_is_answered(viewer):
    folder, address, _ = viewer
    (folder.parent / "secret.txt").write_text("secret")
    port = address.split(":")[2].split("/")[0]
    status, headers, data = ask(address)
    assert status == 200
    assert [run["name"] for run in json.loads(data)["runs"]] == ["one"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert ask(address, If_None_Match=headers["etag"])[0] == 304
    assert ask(address, token="wrong")[0] == 401
    assert ask(address, token="")[0] == 401
    assert ask(address, "/", token="")[0] == 401
    assert ask(address, "/?token=wrong")[0] == 401
    for host in ("evil.example", f"evil.example:{port}", f"127.0.0.1.evil.example:{port}"):
        assert ask(address, Host=host)[0] == 403
    for origin in ("http://evil.example", "null", "http://127.0.0.1:1"):
        assert ask(address, Origin=origin)[0] == 403
    assert ask(address, Sec_Fetch_Site="cross-site")[0] == 403
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        assert ask(address, method=method)[0] == 405
    for path in (
        *("/../secret.txt", "/..%2f..%2fsecret.txt", "/content/../../secret.txt", "//etc/passwd"),
        *("/one/metrics.jsonl", "/content/one", "/static/..", "/content%00"),
    ):
        status, _, data = ask(address, path)
        assert status == 404
        assert b"secret" not in data
        assert b"root:" not in data


@needs_browser
def test_curves_follow_what_is_written_and_outlive_the_server(viewer, tmp_path):
    folder, address, process = viewer
    with browser(tmp_path / "profile") as tab:
        page = tab().open(address)
        page.wait("document.querySelectorAll('.chart').length === 1")
        assert page.texts("#runs tbody th") == ["one"]
        logged(folder / "two", rows(1, 5))
        page.wait("document.querySelectorAll('#runs tbody tr').length === 2")
        logged(folder / "one", rows(20, 40))
        page.wait("document.querySelector('#runs tbody').textContent.includes('3,900')")
        shutil.rmtree(folder / "two")
        page.wait("document.querySelectorAll('#runs tbody tr').length === 1")
        assert page.said == []
        place = address.split("/?")[0]
        assert {one.split("?")[0] for one in page.asked} == {f"{place}/", f"{place}/content"}
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        page.wait("document.getElementById('live').textContent.includes('does not answer')")
        assert page.texts("#runs tbody th") == ["one"]
    assert (folder / "one" / "metrics.jsonl").read_text().count("\n") == 39


def test_a_host_that_others_can_reach_is_warned_of_and_errors_are_a_line(tmp_path, capsys):
    from marl.cli import main

    for words in (["view"], ["view", str(tmp_path / "nowhere")], ["view", str(tmp_path), "--port", "99999"]):
        assert main(words) == 2
        said = capsys.readouterr()
        assert said.err.count("\n") == 1
        assert said.out == ""


def test_killing_the_viewer_or_the_trainer_harms_neither(tmp_path):
    (tmp_path / "tiny.py").write_text(SCENARIO)
    folder = tmp_path / "runs"
    run = folder / "one"
    words = ("train", tmp_path / "tiny.py", "--run-dir", run, "--steps", "2000000", "--trust")
    folder.mkdir()
    viewer, trainer = start("view", folder, "--json"), start(*words)
    address = json.loads(viewer.stdout.readline())["url"]

    def told():
        runs = json.loads(ask(address)[2])["runs"]
        return runs[0]["last"].get("steps", 0) if runs else 0

    def wait(wanted):
        end = time.monotonic() + 90
        while not wanted():
            assert time.monotonic() < end
            assert trainer.poll() is None
            time.sleep(0.1)

    wait(lambda: told() > 0)  # it is seen while it trains
    os.kill(trainer.pid, signal.SIGKILL)
    trainer.communicate()
    seen = told()
    status = json.loads(ask(address)[2])["runs"][0]["status"]
    assert status in ("training, or ended without a summary", "ended without a summary")
    rows = read_metrics(run)
    assert rows[-1]["steps"] >= seen > 0
    trainer = start(*words, "--resume")
    wait(lambda: len(read_metrics(run)) > len(rows))
    os.kill(viewer.pid, signal.SIGKILL)
    viewer.communicate()
    before = len(read_metrics(run))
    wait(lambda: len(read_metrics(run)) > before + 1)  # the training goes on
    trainer.send_signal(signal.SIGINT)
    assert finish(trainer, 60).code == 130
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
