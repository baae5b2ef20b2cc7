"""Folders from somebody else: nothing in them is run, imported or followed, whatever they say and hold."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import site
import sys
import sysconfig
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import marl
from marl import checkpoint
from marl.adapters.resolve import comes_with_library
from marl.adapters.spawn import spawn
from marl.checkpoint import MANIFEST, TENSORS, TREE
from marl.cli import main
from tests.support.tiny import Constant

ROOT = Path(__file__).parents[1]
GIFT = "import pathlib\npathlib.Path(__file__).with_name('RAN').touch()\ndef run(*_, **__):\n    raise SystemExit(77)\n"
HOSTILE = ("gift", "antigravity", "this", "turtle", "telnetlib", "marl.conformance", "marl.__main__")  # never imported
DEEDS = (
    *("os.system", "subprocess.Popen", "os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn"),
    *("os.startfile", "socket.connect", "socket.getaddrinfo", "urllib.Request", "pickle.find_class", "webbrowser.open"),
)
CHANGES = ("os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate", "shutil.rmtree")


class Watch:
    """What Python's audit hooks say while it is on: deeds that no received folder may lead to."""

    def __init__(self) -> None:
        self.folder: Path | None = None
        self.found: list[str] = []
        prefixes = {sys.prefix, sys.base_prefix, *site.getsitepackages(), *sysconfig.get_paths().values()}
        self.ours = [str(Path(entry).resolve()) for entry in (*prefixes, ROOT, *sys.path) if entry]
        self.ours += ["/proc", "/sys", "/dev/null", "/dev/urandom", "/usr", "/lib", "/etc/mime.types"]

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event in DEEDS:
            self.found.append(f"{event} {arguments!r:.200}")
        elif event == "import" and arguments[0] in HOSTILE:
            self.found.append(f"import {arguments[0]}")
        elif event == "open" and isinstance(arguments[0], str | bytes):
            self.look(event, os.fsdecode(arguments[0]), reading=True)
        elif event in CHANGES and isinstance(arguments[0], str | bytes | os.PathLike):  # not what is open already
            self.look(event, os.fsdecode(arguments[0]), reading=False)
        elif event == "exec" and self.inside(getattr(arguments[0], "co_filename", "")):
            self.found.append(f"exec {arguments[0]}")
        elif event == "compile" and arguments[1] is not None and self.inside(os.fsdecode(arguments[1])):
            self.found.append(f"compile {arguments[1]}")

    def look(self, event: str, path: str, reading: bool) -> None:
        """``reading``: what is installed may be read."""
        if not self.inside(path) and not (reading and any(_below(path, entry) for entry in self.ours)):
            self.found.append(f"{event} {path} -> {os.path.realpath(path)}")

    def inside(self, path: str) -> bool:
        """Whether it lies in the folder, links followed; a link itself lies where it lies."""
        named = bool(path) and not path.startswith("<")  # <string> is no file
        return self.folder is not None and named and _below(path, str(self.folder))

    @contextlib.contextmanager
    def on(self, folder: Path) -> Iterator[None]:
        self.found.clear()
        self.folder = folder.resolve()
        try:
            yield
        finally:
            self.folder = None


def _below(path: str, folder: str) -> bool:
    there = os.path.realpath(path)
    return there == folder or there.startswith(folder.rstrip(os.sep) + os.sep)


WATCH = Watch()


@pytest.fixture(scope="module", autouse=True)
def hook():
    sys.addaudithook(WATCH.hook)


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A small finished run with two checkpoints, of an installed scenario."""
    folder = tmp_path_factory.mktemp("received") / "run"
    words = ("--num-envs", "2", "--steps", "64", "--save-every", "32", "--set", "learner.network=MLP((4,))")
    more = ("--set", "learner.rollout=8", "--set", "learner.minibatches=1", "--set", "learner.epochs=1")
    assert main(["train", "cartpole", "--run-dir", str(folder), *words, *more, "--quiet", "--no-evaluate"]) == 0
    assert main(["evaluate", str(folder), "--episodes", "1"]) == 0  # what is imported late is imported now
    assert main(["train", "--run-dir", str(folder), "--resume", "--no-evaluate"]) == 0
    main(["plot", str(folder), "--out", str(folder.with_name("curves.png"))])
    return folder


DEEP = "nested too deeply"  # what :func:`write` puts in its place


def write(file: Path, data: Any) -> None:
    """JSON, and what no encoder would write."""
    file.write_text(json.dumps(data).replace(f'"{DEEP}"', "[" * 100_000 + "]" * 100_000))


def rehash(folder: Path, manifest: dict[str, Any], files: bool = True) -> None:
    """Make a manifest right, as somebody who means harm would."""
    if files:
        contents = {name: (folder / name).read_bytes() for name in (TREE, TENSORS)}
        manifest["files"] = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
        manifest["sizes"] = {name: len(data) for name, data in contents.items()}
    manifest["sha256"] = checkpoint._own_hash(manifest)
    write(folder / MANIFEST, manifest)


def newest(folder: Path) -> list[Path]:
    return sorted(path for path in (folder / "checkpoints").iterdir() if path.name.startswith("step-"))


REFERENCES = (
    *("os:system", "gift", "gift:run", "gift.py", "./gift.py", "../gift.py", "{folder}/gift.py", "antigravity", "this"),
    *("gift.run", "turtle:main", "builtins:exec", "builtins:eval", "subprocess:run", "marl.__main__", "marl.cli:main"),
    *("gift:Env-v0", "GymV26Environment-v0", "GymV21Environment-v0", "mpe2.gift_v1", "pettingzoo.classic.gift_v9"),
    *("marl/../gift-v0", "module:", ":attribute", "", "\0", "a" * 5000, "gift-v0\n", "Foraging:gift", "http://x/y.py"),
    *(
        "marl_scenarios.cartpole:scenario",
        "tests.support.tiny:Constant",
        "marl.conformance:check",
        "..",
        "/",
        "~/gift.py",
    ),
)
# --- what a file may name ---------------------------------------------------------------------------------------------


def saved(folder: Path, env: object = "CartPole-v1", agents: Any = None, named: str | None = None) -> Path:
    """A small checkpoint, which may name another environment than its own."""
    with marl.MultiAgentSystem(agents or marl.Random(), env, num_envs=1) as system:
        path = system.save(folder / "saved")
    if named is not None:
        manifest = json.loads((path / MANIFEST).read_text())
        rehash(path, manifest | {"meta": manifest["meta"] | {"env": named}})
    return path


def test_a_checkpoint_names_registered_environments_and_installed_scenarios_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "gift.py").write_text(GIFT)
    for name in ("CartPole-v1", "cartpole", "mpe2.simple_spread_v3", "marl/spread-v0", "sisl/pursuit-v5"):
        assert marl.MultiAgentSystem.load(saved(tmp_path, named=name)).spec.agents
    for name in REFERENCES:
        if name.endswith(("gift_v1", "gift_v9")):  # a package that is trusted has no such module
            assert not marl.MultiAgentSystem.load(saved(tmp_path, named=name)).history["episode_rewards"]
            continue
        with pytest.raises(marl.CheckpointError, match="it would import and run") as caught:
            marl.MultiAgentSystem.load(saved(tmp_path, named=name.replace("{folder}", str(tmp_path))))
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.rglob("RAN"))


def test_what_a_checkpoint_names_runs_where_the_user_names_it_again_or_trusts_it(tmp_path):
    path = saved(tmp_path, env="tests.support.tiny:Constant")
    for given in ({"env": "tests.support.tiny:Constant"}, {"env": Constant}, {"trust": True}):
        with marl.MultiAgentSystem.load(path, **given) as system:
            assert system.evaluate(1).returns == (8.0,)
    hindsight = marl.memory.Hindsight("tests.memory.test_hindsight:difference")
    for agents, word in (
        (marl.iddpg(hindsight=hindsight), r"import and call 'tests\.memory\.test_hindsight:difference'"),
        (marl.iddpg(buffer_dir=str(tmp_path / "replay")), "write its replay to"),
    ):
        path = saved(tmp_path, "marl/reach-v0", agents)
        with pytest.raises(marl.CheckpointError, match=word):
            marl.MultiAgentSystem.load(path)
        for given in ({"agents": agents}, {"trust": True}):
            assert marl.MultiAgentSystem.load(path, **given).agents == agents


def test_a_shipped_scenario_may_do_what_it_does(tmp_path):
    with marl.MultiAgentSystem(None, "reach", num_envs=1) as system:
        path = system.save(tmp_path / "saved")
    assert marl.MultiAgentSystem.load(path).agents == system.agents  # its Hindsight names a function of its world
    manifest = json.loads((path / MANIFEST).read_text())
    manifest["meta"]["agents"]["hindsight"]["reward"] = "marl_envs.reach:Reach"
    rehash(path, manifest)
    with pytest.raises(marl.CheckpointError, match="import and call"):
        marl.MultiAgentSystem.load(path)


def test_neither_the_current_folder_nor_one_that_hides_a_package_is_looked_into(tmp_path, monkeypatch, capsys):
    (tmp_path / "multi_agent_ale_py.py").write_text(GIFT)  # which atari/pong-v3 needs
    (tmp_path / "json.py").write_text(GIFT)
    (tmp_path / "mpe2").mkdir()
    (tmp_path / "mpe2" / "__init__.py").write_text(GIFT)
    path = saved(tmp_path, named="atari/pong-v3")
    monkeypatch.chdir(tmp_path)
    main(["evaluate", str(path), "--episodes", "1"])
    assert capsys.readouterr().err.startswith("marl: error: ")
    process = spawn("builtins", "print", ())
    assert process.wait() == 0
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mpe2"]:
        monkeypatch.delitem(sys.modules, name)
    assert not comes_with_library("mpe2.simple_spread_v3")
    assert not list(tmp_path.rglob("RAN"))


MINE = """
import marl
from tests.support.tiny import Constant

scenario = marl.Scenario(
    name="mine",
    env=Constant,
    agents=marl.ippo(rollout=8, minibatches=1, network=marl.MLP((4,))),
    num_envs=1,
    steps=32,
)
"""


def test_a_run_of_a_scenario_in_a_file_is_opened_by_naming_the_file_again_or_by_trust(tmp_path, capsys):
    file, run = tmp_path / "mine.py", tmp_path / "run"
    file.write_text(MINE)
    assert main(["train", str(file), "--run-dir", str(run), "--quiet", "--episodes", "1"]) == 0
    assert f"next: marl evaluate {run} --trust" in capsys.readouterr().out
    for words in (
        ["evaluate", str(run), "--episodes", "1"],
        ["train", "--run-dir", str(run), "--resume"],
        ["play", str(run)],
        ["exploit", str(run)],
        ["sweep", str(run), "--link", "loss=0,1"],
        ["tournament", str(run), str(run)],
    ):
        assert main(words) == 5
        (line,) = capsys.readouterr().err.strip().splitlines()
        assert f"it would import and run {str(file)!r}" in line
        assert "--trust" in line
    for words in (
        ["evaluate", str(run), "--episodes", "1", "--trust"],
        ["evaluate", str(run), "--episodes", "1", "--env", str(file)],
        ["evaluate", str(run), "--episodes", "1", "--env", "tests.support.tiny:Constant"],
        ["train", str(file), "--run-dir", str(run), "--resume", "--no-evaluate", "--steps", "40"],
        ["train", "--run-dir", str(run), "--resume", "--no-evaluate", "--steps", "48", "--trust"],
    ):
        assert main(words) == 0, capsys.readouterr().err
    capsys.readouterr()


def test_settings_in_a_config_choose_no_code_either(run, tmp_path, capsys):
    for setting, word in (
        ("learner.hindsight=Hindsight('gift:run')", "unknown key"),
        ("env_kwargs.map=../map.txt", "give the environment env_kwargs.map='../map.txt'"),
        ("learner.network=Custom('gift:run')", "Custom"),
    ):
        folder = tmp_path / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run, folder, symlinks=True)
        config = json.loads((folder / "config.json").read_text())
        config["set"].append(setting)
        write(folder / "config.json", config)
        for words in (["evaluate", str(folder)], ["train", "cartpole", "--run-dir", str(folder), "--resume"]):
            assert main(words) in (2, 5)
            assert word in capsys.readouterr().err


WILD = (
    ("memory", "last", 10**6),
    ("memory", "last", -(10**6)),
    ("memory", "head", 10**6),
    ("memory", "arrays", "link", 10**6),
    ("memory", "arrays", "_final", 10**6),
    ("memory", "arrays", "action", 10**6),
    ("memory", "arrays", "action", -1),
    ("memory", "priorities", "nodes", math.inf),
)


@pytest.mark.parametrize("wild", WILD, ids=str)
def test_places_and_actions_in_a_memory_are_looked_at_before_compiled_code_goes_there(wild, tmp_path):
    replay = marl.iql(
        learning_starts=8, batch=4, buffer=64, prioritized=marl.memory.Prioritized(), network=marl.MLP((4,))
    )
    rollout = marl.ippo(rollout=16, minibatches=1, network=marl.MLP((4,)))
    *path, value = wild
    for learner in (replay, rollout):
        with marl.MultiAgentSystem(learner, Constant, num_envs=2) as system:
            system.train(steps=40)
            state = checkpoint.load(system.save(tmp_path / "saved"))[0]
            part = state["learners"]["team"]
            if path[0] not in part or (len(path) == 3 and path[2] not in part["memory"]["arrays"]):
                continue
            for key in path[:-1]:
                part = part[key]
            if path[-1] not in part:
                continue
            part[path[-1]] = value if isinstance(part[path[-1]], int) else part[path[-1]] * 0 + value
            with pytest.raises(ValueError, match=r"places outside|do not exist|there are none"):
                system.load_state_dict(state)


# --- forgeries --------------------------------------------------------------------------------------------------------


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def settings_of(name: str, **fields: Any) -> dict[str, Any]:
    return {"$class": name, **fields}


VALUES: tuple[Any, ...] = (
    *REFERENCES,
    *(None, True, False, 0, -1, 1, 2.5, 10**6, 10**9, 10**12, 10**30, -(10**12), 1e308, math.nan, math.inf, -math.inf),
    *([], {}, [None], {"$": "tuple"}, deep(300), DEEP, [[]], {"a": {"b": {}}}, ["os:system"], "cuda:99", "meta"),
    *({"$path": "{folder}/gift.py"}, {"$path": "/etc/passwd"}, {"$code": "os:system"}, {"$code": 3}, {"$map": 3}),
    *({"$array": [1], "shape": [1], "dtype": "O"}, {"$array": "x", "shape": [9], "dtype": "V8"}, {"$list": 7}),
    *({"$set": [[]]}, {"$bytes": "zz"}, {"$unknown": 1}, {"$map": [[[1], 2]]}, {"$map": [["$class", "os:system"]]}),
    settings_of("os:system", command="touch {folder}/RAN"),
    settings_of("marl.cli:main"),
    settings_of("marl.cli:Train", scenario="gift.py"),
    settings_of("marl.__main__:main"),
    settings_of("marl.conformance:Finding"),
    settings_of("marl.nets.networks:Custom", module="gift:run"),
    settings_of("marl.nets.networks:MLP", sizes=[10**9]),
    settings_of("marl.nets.networks:MLP", sizes=[10**5, 10**5]),
    settings_of("marl.nets.networks:MLP", sizes="abc"),
    settings_of("marl.nets.networks:GRU", hidden=10**10),
    settings_of("marl.memory.hindsight:Hindsight", reward="gift:run"),
    settings_of("marl.memory.hindsight:Hindsight", reward="os:system"),
    settings_of("marl.shaping:Function", function="gift:run"),
    settings_of("marl.league.snapshots:League", opponents=["{outside}/secret", "/etc"]),
    settings_of("marl.league.snapshots:League", winner="gift:run"),
    settings_of("marl.learners.dqn:DQN", hindsight=settings_of("marl.memory.hindsight:Hindsight", reward="gift:run")),
    settings_of("marl.learners.dqn:DQN", buffer_dir="{outside}/replay"),
    settings_of("marl.learners.dqn:DQN", buffer=10**13),
    settings_of("marl.learners.ppo:PPO", rollout=10**11),
    settings_of("marl.learners.ppo:PPO", rollout=True, lr="fast", clip=None),
    settings_of("marl.learners.ppo:PPO", network=settings_of("os:system")),
    settings_of("marl.learners.ppo:PPO", unknown=1),
    settings_of("marl.topology:Graph", graph={"nodes": 1, "edges": [["a"]]}),
    settings_of("marl.curriculum:Stages", stages=[]),
    settings_of("marl.adapters.spoken:Spoken", words=10**12),
)
KWARGS: tuple[Any, ...] = (
    *({"command": "touch {folder}/RAN"}, {"render_mode": "human"}, {"entry_point": "gift:run"}, {"id": "gift-v0"}),
    *({"map": "{folder}/gift.py"}, {"file": "../gift.py"}, {"url": "http://localhost:1/x"}, {"sutton_barto_reward": 7}),
    *({"additional_wrappers": ["gift:run"]}, {"x": {"$path": "/etc/passwd"}}, {"x": {"$code": "os:system"}}, {"": 1}),
    *({"env": "gift"}, {"max_episode_steps": "x"}, {"disable_env_checker": False}, {"vector_kwargs": {"a": "~/b"}}, []),
)
SETS: tuple[str, ...] = (
    *("learner.hindsight=Hindsight('os:system')", "learner.network=Custom('gift:run')", "env=gift.py", "env=os:system"),
    *("league=League(opponents=['{outside}/secret'])", "env_kwargs.map={folder}/gift.py", "__class__=1", "name=gift"),
    *("learner.__class__.__init__=1", "learner.lr=__import__('os').system('touch {folder}/RAN')", "workers=1000000"),
    *("learner.network=MLP((10**9,))", "learner.rollout=" + "9" * 5000, "[" * 5000, "=", "learner.lr", "steps=-1"),
    *("num_envs=1000000000", "stop=gift:run", "curriculum=gift", "learner.lr=nan", "learner.network.sizes=1e9"),
)


def places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON tree."""
    yield path
    for key, item in tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ():
        yield from places(item, (*path, key))


def put(tree: Any, path: tuple[Any, ...], value: Any) -> None:
    for key in path[:-1]:
        tree = tree[key]
    tree[path[-1]] = value


def filled(value: Any, folder: Path) -> Any:
    """With the forged folder, and the one beside it that nobody may touch, in place of their marks."""
    if isinstance(value, str):
        return value.replace("{folder}", str(folder)).replace("{outside}", str(folder.with_name("outside")))
    if isinstance(value, list) and len(value) != 1:
        return [filled(item, folder) for item in value]
    if isinstance(value, dict):
        return {key: filled(item, folder) for key, item in value.items()}
    return value


def forge_meta(folder: Path, chance: random.Random) -> str:
    """Anything in what a manifest says."""
    target = newest(folder)
    manifest = json.loads((target[-1] / MANIFEST).read_text())
    path = chance.choice([place for place in places(manifest["meta"]) if place])
    value = chance.choice(VALUES)
    put(manifest["meta"], path, filled(value, folder))
    for one in target:
        rehash(one, manifest)
    return f"meta {path} = {value!r:.60}"


def forge_names(folder: Path, chance: random.Random) -> str:
    """What a manifest says of environment, options and settings, with a config.json that may be missing."""
    what = chance.choice(("env", "options", "agents", "shaping", "curriculum", "league", "channel", "network"))
    pool = {"env": REFERENCES, "options": KWARGS}.get(what, [value for value in VALUES if isinstance(value, dict)])
    value = filled(chance.choice(pool), folder)
    for one in newest(folder):
        manifest = json.loads((one / MANIFEST).read_text())
        if what == "network":
            manifest["meta"]["agents"]["network"] = value
        else:
            manifest["meta"][what] = {"env_kwargs": value, "max_steps": None} if what == "options" else value
        rehash(one, manifest)
    if chance.random() < 0.7:
        (folder / "config.json").unlink()
    return f"{what} = {value!r:.60}"


def forge_manifest(folder: Path, chance: random.Random) -> str:
    """Anything in a manifest itself."""
    for one in newest(folder):
        manifest = json.loads((one / MANIFEST).read_text())
        path = chance.choice([place for place in places(manifest) if place and place[0] != "meta"])
        put(manifest, path, filled(chance.choice(VALUES), folder))
        rehash(one, manifest, files=False)
    return f"manifest {path}"


def forge_config(folder: Path, chance: random.Random) -> str:
    """Scenario, --set and numbers of a config.json."""
    config = json.loads((folder / "config.json").read_text())
    kind = chance.random()
    if kind < 0.35:
        config["scenario"] = filled(chance.choice(REFERENCES), folder)
    elif kind < 0.7:
        config["set"] = [*config["set"], filled(chance.choice(SETS), folder)]
    else:
        path = chance.choice([place for place in places(config) if place])
        put(config, path, filled(chance.choice(VALUES), folder))
    write(folder / "config.json", config)
    return f"config {config['scenario']!r:.60} {config.get('set')!r:.60}" if isinstance(config, dict) else "config"


def forge_tree(folder: Path, chance: random.Random) -> str:
    """The state itself."""
    for one in newest(folder):
        tree = json.loads((one / TREE).read_text())
        path = chance.choice([place for place in places(tree) if place])
        put(tree, path, filled(chance.choice(VALUES), folder))
        write(one / TREE, tree)
        rehash(one, json.loads((one / MANIFEST).read_text()))
    return f"tree {path}"


def forge_file(folder: Path, chance: random.Random) -> str:
    """Something else in place of a file, or of a folder."""
    one = newest(folder)[-1]
    names = [one / name for name in (MANIFEST, TREE, TENSORS)]
    names += [folder / name for name in ("config.json", "metrics.jsonl", "summary.json", "run.lock")]
    names += [folder / "checkpoints" / "best.json", one, folder / "checkpoints"]
    victim = chance.choice(names)
    if victim.is_dir():
        shutil.move(victim, folder / "elsewhere")
    else:
        victim.unlink(missing_ok=True)
    outside = folder.with_name("outside")
    hows: dict[str, Callable[[], object]] = {
        "pipe": lambda: os.mkfifo(victim),
        "link": lambda: victim.symlink_to(outside / "secret"),
        "link to a folder": lambda: victim.symlink_to(outside),
        "link beside": lambda: victim.symlink_to("../gift.py"),
        "endless link": lambda: victim.symlink_to("/dev/zero"),
        "dead link": lambda: victim.symlink_to(outside / "new"),
        "hard link": lambda: os.link(outside / "secret", victim),
        "folder": victim.mkdir,
        "sparse": lambda: os.truncate(os.open(victim, os.O_CREAT | os.O_WRONLY), 2**40),
        "garbage": lambda: victim.write_bytes(chance.randbytes(100)),
        "nothing": lambda: None,
    }
    how = chance.choice(list(hows))
    hows[how]()
    return f"{victim.relative_to(folder)}: {how}"


def forge_metrics(folder: Path, chance: random.Random) -> str:
    """Rows of metrics, and which checkpoint is the best."""
    rows = [{chance.choice(("steps", "mean_return", "seconds", "x/mean_return")): v} for v in VALUES[-60:]]
    rows += [{"steps": chance.choice((1, 10**400)), "mean_return": 1.0, f"{n}/mean_return": 1} for n in range(200)]
    lines = [json.dumps(filled(row, folder)) for row in rows if isinstance(row, dict)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    name = chance.choice(("../../outside", "step-" + "9" * 4000, "step-1", 3))
    best = {"checkpoint": name, "metric": "x", "value": 1}
    (folder / "checkpoints" / "best.json").write_text(json.dumps(best))
    return "metrics and best.json"


FORGERS = (
    *[(forge_meta, 0.3), (forge_names, 0.26), (forge_manifest, 0.05), (forge_config, 0.16)],
    *[(forge_tree, 0.06), (forge_file, 0.15), (forge_metrics, 0.02)],
)
NUMBER = 560


def command(folder: Path, chance: random.Random) -> list[str]:
    asked = chance.random()
    if asked < 0.7:
        return ["evaluate", str(folder), "--episodes", "1", "--checkpoint", chance.choice(("best", "last"))]
    if asked < 0.76:
        return ["evaluate", str(newest(folder)[-1]) if (folder / "checkpoints").is_dir() else ".", "--episodes", "1"]
    if asked < 0.92:
        more = ["--steps", "80"] if asked < 0.85 else []
        return ["train", "--run-dir", str(folder), "--resume", "--quiet", "--no-evaluate", *more]
    if asked < 0.95:
        return ["plot", str(folder)]
    if asked < 0.97:
        return ["tournament", str(folder), str(folder), "--games", "1"]
    return ["exploit", str(folder), "--steps", "16", "--games", "1"]


def test_five_hundred_forged_folders_run_and_touch_nothing(run, tmp_path, monkeypatch, capsys):
    """Audit hooks of Python itself watch over imports, files, processes and sockets."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text('{"secret": 1}')
    monkeypatch.setenv("HOME", str(outside))
    codes: dict[int, int] = {}
    wrong = []
    for seed in range(NUMBER):
        chance = random.Random(seed)
        folder = tmp_path / "forged"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(run, folder, symlinks=True)
        for place in (folder / "gift.py", folder / "checkpoints" / "gift.py"):
            place.write_text(GIFT)
        (forge,) = chance.choices([forger for forger, _ in FORGERS], [weight for _, weight in FORGERS])
        what = forge(folder, chance)
        words = command(folder, chance)
        monkeypatch.chdir(folder)
        capsys.readouterr()
        before = sys.path.copy()
        with WATCH.on(folder):
            code = main(words)
        monkeypatch.chdir(tmp_path)
        lines = capsys.readouterr().err.strip().splitlines()
        codes[code] = codes.get(code, 0) + 1
        faults = list(WATCH.found)
        if code not in (0, 2, 5):
            faults.append(f"exit {code}")
        if code in (2, 5) and not lines[-1].startswith("marl: error:"):
            faults.append("no line")
        if any("Traceback" in line or len(line) > 1600 for line in lines):
            faults.append("lines")
        if list(tmp_path.rglob("RAN")) or sorted(os.listdir(outside)) != ["secret"] or sys.path != before:
            faults.append("it left something")
        if (outside / "secret").read_text() != '{"secret": 1}':
            faults.append("it wrote through a link")
        if faults:
            wrong.append(f"{seed}: {what}; {words[0]}: {faults} {lines[-1:]}")
    assert not wrong, "\n".join(wrong)
    assert codes[5] + codes[2] > 350
    assert codes[0] > 20  # the unforged part of a run is as good as before
