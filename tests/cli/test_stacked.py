"""``marl study run --stacked``: cells that train as one end as the run folders of separate runs."""

from __future__ import annotations

import json

import marl
from marl.studies import StudyFolder
from tests.support.commands import Here
from tests.support.equality import CLOCKS, assert_equal_systems

STUDY = """
import marl
study = marl.Study(
    name="many",
    tasks=["spread_native"],
    algorithms={
        "ippo": marl.ippo(rollout=16, epochs=1, minibatches=1, network=marl.MLP((8,))),
        "a2c": marl.ia2c(rollout=16, network=marl.MLP((8,))),
    },
    seeds=2,
    steps=200,
    settings=["num_envs=2"],
    variations={"learner.lr": marl.studies.Axis([1e-3, 3e-4], algorithms=["ippo"])},
    evaluate_every=100,
    evaluate_episodes=2,
    episodes=2,
)
"""


def rows(folder):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in CLOCKS} for row in lines]


def test_stacked_cells_of_a_study_end_as_the_run_folders_of_separate_runs(tmp_path, monkeypatch, marl_command):
    monkeypatch.setattr("marl.cli.schedule.CellProcess", Here)
    file = tmp_path / "many.py"
    file.write_text(STUDY)
    said = marl_command("study", "run", file, "--out", tmp_path / "stacked", "--stacked", "--json")
    assert said.code == 0, said.err
    assert "stacked: 4 cells, spread_native/ippo/lr=0.001/seed-0 and others, train as one" in said.err
    assert "not stacked: spread_native/a2c: A2C is not trained stacked, only PPO is" in said.err
    told = json.loads(said.out)
    assert (told["finished"], told["failed"]) == (6, {})
    assert marl_command("study", "run", file, "--out", tmp_path / "apart", "--jobs", 1).code == 0
    one, other = (StudyFolder.read(tmp_path / name) for name in ("stacked", "apart"))
    for mine, theirs in zip(one.cells, other.cells, strict=True):
        assert rows(mine.folder) == rows(theirs.folder)
        ours, due = (json.loads((cell.folder / "summary.json").read_text()) for cell in (mine, theirs))
        assert ours["evaluation"] == due["evaluation"]
        systems = [marl.MultiAgentSystem.load(cell.folder / "checkpoints" / "last") for cell in (mine, theirs)]
        assert_equal_systems(*systems)
        for system in systems:
            system.train(64)
        assert_equal_systems(*systems)
    again = marl_command("study", "run", file, "--out", tmp_path / "stacked", "--stacked", "--json")
    assert json.loads(again.out)["trained"] == 0
