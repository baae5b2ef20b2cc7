"""Runs and recordings that mean no good: what they say is shown as text, and what is missing is said."""

from __future__ import annotations

import json

import numpy as np
import pytest

from marl.cli import main
from marl.report import RecordedEpisode, Recording
from marl.report.league import league_of
from tests.support.browser import browser, needs_browser

SCRIPT = "</script><script>document.title='taken'</script><img src=x onerror=document.title=1>"
NASTY = (SCRIPT, "two\nlines\rand a \x00 zero", "\"'`&amp;${1}", "\u202egnp.exe \u05e9\u05dc\u05d5\u05dd", "z" * 10_000)
LITERALS = b"""{"steps": 1, "mean_return": NaN, "entropy": 1.0}
{"steps": 2, "mean_return": Infinity, "entropy": -Infinity}
{"steps": 3, "mean_return": 1.5, "entropy": 1e999}
{"steps": NaN, "mean_return": 9.0}
{"steps": 4, "mean_return": 2.5, "entropy": 0.5}
{"steps": 5, "mean_return": [1], "entropy": {"a": NaN}}
not json
"""


def recording():
    """An episode whose agents, team, infos and texts are called like that, with numbers that are none."""
    agents, length = NASTY, 4
    each = dict.fromkeys(agents, np.array([1.0, np.nan, np.inf, -np.inf], dtype=np.float32))
    episode = RecordedEpisode(
        returns=dict.fromkeys(agents, float("nan")),
        length=length,
        copy=0,
        info={name: value for name, value in zip(NASTY, (1.0, float("nan"), float("inf"), 2.0, 3.0), strict=True)},
        observations=dict.fromkeys(agents, np.full((length + 1, 2), np.nan, dtype=np.float32)),
        actions=dict.fromkeys(agents, np.zeros(length, dtype=np.int64)),
        rewards=each,
        acting=dict.fromkeys(agents, np.ones(length, dtype=bool)),
        ends=dict.fromkeys(agents, np.zeros(length, dtype=np.uint8)),
        values=each,
    )
    names = {agent: NASTY[:2] for agent in agents}
    return Recording(
        SCRIPT, {SCRIPT: agents}, 0, True, "", 10.0, {}, NASTY, (episode,) * 3, names=names, seats={SCRIPT: SCRIPT}
    )  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run folder in which nothing is as it should be."""
    folder = tmp_path_factory.mktemp("hostile")
    run = folder / "a\nb <script>document.title=1</script> \u202e'\""
    checkpoint = run / "checkpoints" / "step-000000000004"
    checkpoint.mkdir(parents=True)
    (run / "metrics.jsonl").write_bytes(LITERALS)
    (run / "config.json").write_text(
        json.dumps(
            {
                "settings": {"learner": {SCRIPT: {"$class": SCRIPT}}, "seed": 0, SCRIPT: NASTY, "env": SCRIPT},
                "versions": {SCRIPT: SCRIPT},
            }
        )
    )
    (run / "summary.json").write_text(
        '{"status": "finished", "steps": NaN, "spent": {"all": NaN, "x": "y"}, "evaluation": {"mean_return": Infinity, '
        '"returns": [NaN, 1, "x"], "returns_per_agent": {"a": -Infinity}, "confidence_interval": [NaN, 2], "teams": 3}}'
    )
    (checkpoint / "manifest.json").write_text(
        json.dumps({"schema": 99, "meta": {"spec": {"teams": [{"name": SCRIPT}]}}})
    )
    (checkpoint / "tree.json").write_text('{"parts": {"league": {"members": [{"uid": "x"}], "ratings": 3}}}')
    recording().save(run / "episodes.npz")
    return folder


def test_a_checkpoint_of_another_version_has_no_league_and_harms_nothing(folder, tmp_path):
    (checkpoint,) = folder.rglob("step-*")
    assert league_of(checkpoint) is None
    member = {"uid": 0, "place": 7, "name": "far", "wins": 1, "games": 2, "rating": [1], "pooled": True}
    for tree in (
        "[]",
        "{",
        '{"parts": []}',
        json.dumps({"parts": {"league": {"members": [member], "ratings": [[1]]}}}),
    ):
        (tmp_path / "tree.json").write_text(tree)
        (tmp_path / "manifest.json").write_bytes((checkpoint / "manifest.json").read_bytes())
        assert league_of(tmp_path) is None
    (tmp_path / "tree.json").unlink()
    (tmp_path / "tree.json").symlink_to("/etc/passwd")
    assert league_of(tmp_path) is None


@needs_browser
def test_a_page_shows_hostile_names_and_numbers_as_text(folder, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["report", str(folder), "--out", str(out), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["bytes"] < 1_000_000
    data = out.read_text().split('id="content">')[1].split("</script>")[0]
    assert json.loads(data, parse_constant=pytest.fail)["replays"][0]["episodes"][0]["rewards"][0] == [1] + [None] * 3
    with browser(tmp_path / "profile") as tabs:
        tab = tabs().open(f"file://{out}#episode=1&step=2")
        assert tab.said == []
        assert len(tab.asked) == 1  # the page itself
        assert tab.run("document.title").endswith("· marl")
        assert tab.run("document.querySelectorAll('img, main script, iframe, object, [onerror]').length") == 0
        whole = tab.run("document.body.textContent")
        assert "<script>document.title='taken'</script>" in whole  # as text
        assert not set(whole) & set("\u202e\x00\r")
        assert tab.texts("#step") == ["step 2 of 4"]
        assert len(tab.texts("#agents tbody th")) == len(NASTY)
        assert "–" in tab.texts("#agents tbody td")  # of what is no number
        assert "1 lines of metrics.jsonl are damaged" in whole
        assert "1 rows of metrics.jsonl have no steps" in whole
        assert max(map(len, tab.texts("#agents tbody th"))) == 300  # the long one is cut
        for width in (1400, 400):
            tab.open(f"file://{out}?{width}", width=width)
            assert tab.run("document.documentElement.scrollWidth") <= width
        assert tab.said == []
