"""The page of marl report --out, in a real browser: true, whole, and deaf to whatever a run says."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import marl
from marl.cli import main
from marl.logs.metrics import line_of
from marl.report import Recording, record
from marl.report.content import Source
from marl.report.curves import curves
from marl.report.html import FOLDER, SCRIPTS, SEAT_SCRIPTS, as_json, page
from marl.report.rows import MOST_METRICS, MetricsReader, thinned
from marl.types import ConfigError
from tests.support.browser import browser, needs_browser

PPO = {"rollout": 8, "minibatches": 1}
NASTY = "</script><img src=x onerror=alert(1)>\"'&\u2028"
CELLS = "(row) => [...row.cells].map((one) => one.textContent)"
SLIDE = "((one) => { one.value = 3; one.dispatchEvent(new Event('input')); })(document.getElementById('scrubber'))"
TURNED = "\u202egnp.exe \u05e9\u05dc\u05d5\u05dd"


def logged(folder, rows, more=b""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "metrics.jsonl").write_bytes(b"".join(map(line_of, rows)) + more)
    return folder


def rising(count, slope, start=0.0):
    return [{"steps": 10 * n, "mean_return": start + slope * n, "entropy": 1 / (1 + n)} for n in range(1, count + 1)]


# --- what stands in it ------------------------------------------------------------------------------------------------


def test_text_in_the_page_can_end_no_element():
    said = as_json({NASTY: [NASTY]})
    assert not set(said) & set("<>&\u2028\u2029")
    assert json.loads(said) == {NASTY: [NASTY]}
    made = page(Source([]).nothing(NASTY), NASTY)
    assert "<img" not in made
    assert made.count("</script>") == 2


def test_a_policy_lets_only_the_pages_own_program_and_style_run():
    made = page(None, "x")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', made)[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "connect-src 'self'" in policy
    assert "connect-src" not in page({}, "x")
    for file in FOLDER.iterdir():
        text = file.read_text()
        assert not re.search(
            r"\beval\b|new Function|innerHTML|outerHTML|document\.write|insertAdjacentHTML|import\(", text
        )
        assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert {file.name for file in FOLDER.iterdir()} == {*SCRIPTS, *SEAT_SCRIPTS, "page.css"}


def test_metrics_are_read_as_they_grow_and_what_is_damaged_is_counted(tmp_path):
    folder = logged(tmp_path / "run", rising(3, 1.0), b'{"steps": 40, "mean_ret')
    reader = MetricsReader(folder)
    assert reader.read()
    assert list(reader.columns["mean_return"][1]) == [1.0, 2.0, 3.0]
    assert not reader.read()
    with (folder / "metrics.jsonl").open("ab") as file:  # the torn row comes to its end
        file.write(b'urn": 4.0}\nnonsense\n{"mean_return": 5.0}\n{"steps": 50, "mean_return": null}\n')
    assert reader.read()
    assert list(reader.columns["mean_return"][1]) == [1.0, 2.0, 3.0, 4.0]
    assert len(reader.missing) == 2
    assert "1 lines" in reader.missing[0]
    logged(folder, rising(2, 7.0))  # shorter: it began anew
    reader.read()
    assert list(reader.columns["mean_return"][1]) == [7.0, 14.0]
    (folder / "metrics.jsonl").unlink()
    assert reader.read()
    assert reader.missing == ["metrics.jsonl has no rows yet"]
    (folder / "metrics.jsonl").symlink_to("/etc/passwd")
    reader.read()
    assert reader.columns == {}
    assert "link" in reader.missing[0]


def test_a_million_rows_become_a_few_hundred_points_with_the_same_mean(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    row = line_of({"steps": 5, "mean_return": 1.25})
    with (folder / "metrics.jsonl").open("wb") as file:
        for _ in range(100):
            file.write(row * 10_000)
    reader = MetricsReader(folder)
    reader.read()
    made = curves([("run", [reader.columns])])
    assert reader.rows == 1_000_000
    assert made["metrics"][0]["lines"][0]["y"] == [1.25] * 400
    x, y = thinned(([float(n) for n in range(1000)], [float(n) for n in range(1000)]), 10)
    assert x.tolist() == y.tolist() == [49.5 + 100 * n for n in range(10)]


def test_seeds_are_one_curve_with_its_interval_over_seeds():
    runs = [{"m": ([1.0, 2.0], [value, 2 * value])} for value in (1.0, 2.0, 6.0)]
    made = curves([("alone", runs[:1]), ("three", runs)])
    alone, three = made["metrics"][0]["lines"]
    assert "low" not in alone
    assert (alone["seeds"], three["seeds"]) == (1, 3)
    assert three["y"] == [3.0, 6.0]
    assert three["low"][0] < 3 < three["high"][0]
    assert made["xs"] == [[1, 2]]


def test_metrics_beyond_a_limit_are_left_out_and_said_to_be(tmp_path):
    folder = logged(tmp_path / "run", [{"steps": 1, **{f"m{n}": 1.0 for n in range(MOST_METRICS + 5)}}])
    reader = MetricsReader(folder)
    reader.read()
    assert len(reader.columns) == MOST_METRICS
    assert str(MOST_METRICS) in reader.missing[0]


def test_a_damaged_run_is_left_out_and_said_to_be(tmp_path):
    logged(tmp_path / "good", rising(3, 1.0))
    (logged(tmp_path / "bad", rising(3, 1.0)) / "config.json").write_text("{")
    (tmp_path / "good" / "episodes.npz").write_bytes(b"nonsense")
    content = Source([tmp_path]).content()
    assert [run["name"] for run in content["runs"]] == ["good"]
    assert any("bad/config.json" in text for text in content["missing"])
    assert any("episodes.npz" in text and "damaged" in text for text in content["missing"])
    assert any("summary.json" in text for text in content["runs"][0]["missing"])
    with pytest.raises(ConfigError, match=r"config\.json"):
        Source([tmp_path / "bad"]).content()


# --- in a browser -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def system():
    return marl.MultiAgentSystem(marl.mappo(channel=marl.CommNet(), **PPO), "marl/reference-v0", num_envs=2, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, system):
    """Two seeds, a nasty run, a recording, a tournament."""
    folder = tmp_path_factory.mktemp("page")
    system.train(steps=64, run_dir=folder / "runs" / "alpha")
    logged(
        folder / "runs" / NASTY.replace("/", "|"), [{"steps": 1, NASTY: 2.0, TURNED: 1.0, "x" * 10_000: 3.0}], b"}{\n"
    )
    (folder / "runs" / "alpha" / "summary.json").write_text(
        json.dumps({"status": NASTY, "steps": 1e999, "notes": [NASTY, TURNED, "y" * 10_000], "evaluation": {
            "mean_return": float("nan"), "confidence_interval": [1, NASTY], "returns": [1.0, NASTY, 2.0] * 4,
            "returns_per_agent": {NASTY: 2.0}, "episodes": 12, "info": {NASTY: 1.0}, "teams": NASTY,
        }}).replace("NaN", "null").replace("Infinity", "null")
    )  # fmt: skip
    record(system, 6, seed=3).save(folder / "runs" / "alpha" / "episodes.npz")
    table = [[0.0, 0.5, -1.0], [-0.5, 0.0, 0.25], [1.0, -0.25, 0.0]]
    (folder / "cross.json").write_text(json.dumps({
        "players": ["one", NASTY, "z" * 200], "games": 10, "payoff": table, "standard_errors": table,
        "elo": [1000, 900, None], "distinguishable": [[True] * 3, [False] * 3, [True] * 3],
    }))  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@needs_browser
def test_nothing_that_a_run_says_is_executed_or_asked_for(folder, tab, capsys):
    out = folder / "report.html"
    assert main(["report", str(folder / "runs"), str(folder / "cross.json"), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] == out.stat().st_size < 1_000_000
    page = tab().open(f"file://{out}")
    assert page.said == []
    assert page.asked == [f"file://{out}"]
    assert page.run("document.querySelectorAll('img, iframe, object, [onerror]').length") == 0
    assert page.run("document.title") == "runs, cross.json · marl"
    sections = ["runs", "curves", "evaluation", "comparison", "tournaments", "replay", "notes", "settings"]
    assert page.run("[...document.querySelectorAll('section')].map((one) => one.id)") == sections
    notes = " ".join(page.texts("#missing li"))
    assert "1 lines of metrics.jsonl are damaged" in notes
    assert "<img src=x onerror=alert(1)>" in notes  # as text
    assert "\u202e" not in page.run("document.body.textContent")
    for width in (1400, 400):  # nothing stands out of the page, however long its name
        page.open(f"file://{out}?{width}", width=width)
        assert page.run("document.documentElement.scrollWidth") <= width
    assert (
        page.run(  # forged handlers do not run, whatever finds its way in
            "(() => { const one = document.createElement('p'); one.setAttribute('onclick', 'document.title = 1');"
            "document.body.append(one); one.click(); return document.title; })()"
        )
        == "runs, cross.json · marl"
    )


@needs_browser
def test_the_replays_numbers_are_the_evaluations(folder, system, tab):
    out = folder / "replay.html"
    assert main(["report", str(folder / "runs" / "alpha"), "--out", str(out)]) == 0
    made = Recording.load(folder / "runs" / "alpha" / "episodes.npz")
    report = system.evaluate(6, seed=3, decentralized=True)
    one, step = made.episodes[4], 17
    assert one.total == report.returns[4]
    page = tab().open(f"file://{out}#episode=4&step={step}")
    assert page.texts("#step") == [f"step 17 of {one.length}"]
    cells = page.run(
        "[...document.querySelectorAll('#agents tbody tr')].map((row) => [...row.cells].map((one) => one.textContent))"
    )
    for (name, action, _, value, reward, total), agent in zip(cells, made.agents, strict=True):
        assert name == agent
        assert float(value) == pytest.approx(one.values[agent][step], rel=1e-2, abs=1e-3)
        assert action == str(one.actions[agent][step])
        assert float(reward) == pytest.approx(one.rewards[agent][step - 1], rel=1e-2)
        assert float(total) == pytest.approx(one.rewards[agent][:step].sum(), rel=1e-3)
    listener, speaker = 0, 1
    heard = page.texts("#heard tbody tr td, #heard tbody tr th")
    assert heard[0] == made.agents[speaker]
    assert float(heard[1]) == pytest.approx(one.weights["team"][step, listener, speaker], rel=1e-2)
    message = one.messages["team"][step, 0, speaker]
    found = [float(part) for part in heard[2].split(", ") if re.fullmatch(r"-?[\d.]+(e-?\d+)?", part)]
    np.testing.assert_allclose(found, message[: len(found)], rtol=0.1, atol=1e-3)
    scores = one.scores[made.agents[0]][step]
    best = np.argsort(-scores)[0]
    thought, number = page.texts("#agents .thought")[0].split(",")[0].split(": ")
    assert thought == str(best)
    assert float(number) == pytest.approx(scores[best], rel=0.05)  # two digits
    # The moment that an address names is where the page goes, also without being loaded anew; and it tells where it is.
    page.run(f"location.hash = '#episode=2&step={one.length}'")
    page.wait(f"document.getElementById('step').textContent === 'step {one.length} of {one.length}'")
    whole = page.run("document.getElementById('return').textContent")
    assert float(whole) == pytest.approx(report.returns[2], rel=1e-3)
    page.run(SLIDE)
    page.wait("location.hash === '#episode=2&step=3'")
    page.run("location.hash = '#episode=99&step=1e9'")
    page.wait(f"document.getElementById('step').textContent === 'step {one.length} of {one.length}'")
    assert page.said == []


@needs_browser
def test_a_thousand_steps_of_ten_agents_are_scrubbed_through_without_complaint(tab, tmp_path):
    from tests.support.tiny import Team

    agents = {"widths": (4,) * 10, "choices": (5,) * 10, "length": 1000}
    system = marl.MultiAgentSystem(marl.ippo(**PPO), lambda **kw: Team(**agents, **kw), num_envs=1, seed=0)
    record(system, 1, seed=0, pictures=False).save(tmp_path / "long.npz")
    out = tmp_path / "long.html"
    assert main(["report", str(tmp_path / "long.npz"), "--out", str(out)]) == 0
    page = tab().open(f"file://{out}")
    page.run("for (let step = 0; step <= 1000; step += 1) replayOf.go(step)")
    assert page.texts("#step") == ["step 1000 of 1000"]
    assert page.said == []
