"""The page that is written beside a bundle: its JavaScript acts as the runtime does, in node and in a browser."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import html
import http.server
import itertools
import json
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Dict, Discrete, MultiBinary, MultiDiscrete, Tuple

import marl
import marl_runtime
from marl.deploy.export import PAGE as PAGE_FILES
from tests.support.policies import ACTIONS, CHANNELS, IMAGE, IMAGE_NETWORKS, NETWORKS, VECTOR, rows, system_of

PAGE = Path(marl_runtime.__file__).parent / "page"
ON = {"rollout": 8, "minibatches": 1}
STEPS = 8

node = pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")


def plain(value):
    """A value as JSON has it."""
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return [plain(inner) for inner in value] if isinstance(value, tuple) else np.asarray(value).tolist()


def exported(system, path, **how):
    for learner in system.learners:
        net = getattr(learner, "policy_net", None) or getattr(learner, "net", None)
        if net is not None:
            with torch.no_grad():
                net.head.weight.mul_(30)  # a new policy's outputs are all but equal
    return system.export(path, **how)


def systems():
    """Every network with every action; images, values, spaces; what talks."""
    for network, kind in itertools.product(NETWORKS, ACTIONS):
        recurrent = {"sequence": 4} if network in ("gru", "lstm") else {}
        learner = marl.PPO(network=NETWORKS[network], normalize_obs=network == "relu", **ON, **recurrent)
        yield f"{network} {kind}", learner, ACTIONS[kind], VECTOR, {}
    for network in IMAGE_NETWORKS:
        recurrent = {"sequence": 4} if network == "gru" else {}
        yield f"image {network}", marl.PPO(network=IMAGE_NETWORKS[network], **ON, **recurrent), Discrete(4), IMAGE, {}
    atoms = marl.DQN(dueling=True, distribution=marl.nets.Atoms(-2, 2, 11))
    yield "dueling atoms", atoms, Discrete(4, start=-1), VECTOR, {}
    yield "squashed", marl.PPO(squash=True, **ON), ACTIONS["box"], VECTOR, {}
    yield "sac", marl.SAC(), Box(np.array([-1, -9]), np.array([2, 3]), dtype=np.float64), VECTOR, {}
    for precision in ("int8", "fp16"):
        yield precision, marl.PPO(**ON), Discrete(4), VECTOR, {"quantize": precision}
    spaces = (
        Dict({"z": Discrete(3, start=1), "a": Box(-1, 1, (2, 2)), "m": Tuple([MultiBinary(2), MultiDiscrete([2, 3])])}),
        Dict({"observation": Box(-1, 1, (4,)), "action_mask": MultiBinary(4)}),
        Box(0, 255, (3, 16, 16), np.uint8),
        Box(0, 255, (8, 8), np.uint8),
    )
    for space in spaces:
        yield f"{space}", marl.PPO(**ON), Discrete(4), space, {}
    for channel, rounds in itertools.product(CHANNELS, (0, 2)):
        memory = {"network": marl.GRU(8), "sequence": 4} if rounds else {}
        yield (
            f"{channel} {rounds}",
            marl.PPO(channel=replace(CHANNELS[channel], rounds=rounds), **ON, **memory),
            *((Discrete(4), VECTOR, {})),
        )


def played(cases, folder):
    """What node answers."""
    (folder / "cases.json").write_text(json.dumps(cases))
    command = [shutil.which("node"), Path(__file__).with_name("play.js"), PAGE, folder / "cases.json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def recorded(agent, observations, random):
    """Steps with random masks and messages, and what the runtime does in them."""
    steps, done = [], []
    agent.reset(0)
    mask_width = agent.codec.num_choices if agent.codec.observation_space["type"] != "Dict" else 0

    def messages():
        said = random.normal(size=(2, agent.size)).astype(np.float32).tolist()
        return {"a": said[0], "c": None if random.random() < 0.3 else said[1]}

    for number, observation in enumerate(observations):
        mask = None
        if number % 2 and mask_width == 4:
            mask = [1, 0, 1, 0]
        if isinstance(observation, dict) and "action_mask" in observation:
            observation["action_mask"] = np.array([0, 1, 1, 0], np.int8)
        heard = messages() if agent.talks else None
        answers = [messages() for _ in range(agent.rounds)]
        row, legal = agent.codec.encode(observation, mask)
        turn = agent.conversation(row, legal, False, None if heard is None else agent.inbox(heard))
        said, told = [], iter(answers)
        try:
            message = next(turn)
            while True:
                said.append(message[0].tolist() if message[1] > 0 else None)
                message = turn.send(agent.inbox(next(told)) if agent.rounds else None)
        except StopIteration as end:
            action = agent.codec.decode(end.value)
        steps.append({"observation": plain(observation), "mask": mask, "heard": heard, "answers": answers})
        done.append({"action": plain(action), "said": said, "outputs": agent.outputs.tolist()})
    return steps, done


@node
def test_javascript_acts_as_the_runtime_in_every_network_action_space_and_channel(tmp_path):
    cases, expected, random = [], [], np.random.default_rng(3)
    for number, (name, learner, action, seen, how) in enumerate(systems()):
        out = exported(system_of(learner, action, seen), tmp_path / str(number), **how)
        steps, done = recorded(marl_runtime.load(out)["b"], rows(seen, STEPS), random)
        cases.append({"folder": str(out), "agent": "b", "episodes": [steps, steps], "name": name})
        expected.append(done)
    for case, wanted, found in zip(cases, expected, played(cases, tmp_path), strict=True):
        assert isinstance(found, list), (case["name"], found)
        for episode in found:  # the second one forgets the first
            for ours, theirs in zip(wanted, episode, strict=True):
                np.testing.assert_allclose(theirs["outputs"], ours["outputs"], atol=2e-5, err_msg=case["name"])
                np.testing.assert_allclose(theirs["action"], ours["action"], atol=1e-5, err_msg=case["name"])
                for said, heard in zip(ours["said"], theirs["said"], strict=True):
                    assert (said is None) == (heard is None), case["name"]
                    np.testing.assert_allclose(heard or [], said or [], atol=1e-5, err_msg=case["name"])


# --- in a browser -----------------------------------------------------------------------------------------------------

EPISODES = 20
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"),
    *("--disable-component-update", "--disable-sync", "--disable-default-apps", "--disable-extensions"),
    *("--enable-logging=stderr", "--v=0", "--virtual-time-budget=20000", "--dump-dom"),
)


@contextlib.contextmanager
def served(folder):
    """The address of a folder's files, on loopback; says what was asked for."""
    asked = []

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format, *arguments):
            asked.append(self.path)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=folder)) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()
            thread.join()


def whole_episodes(team, env):
    """Observations and actions of each agent in whole episodes that the runtime plays."""
    seen = {name: [] for name in team}
    done = {name: [] for name in team}
    for seed in range(EPISODES):
        observations, _ = env.reset(seed=seed)
        team.reset(seed)
        for name in team:
            seen[name].append([])
            done[name].append([])
        while env.agents:
            actions = {name: team[name].act(observation) for name, observation in observations.items()}
            for name, observation in observations.items():
                seen[name][-1].append(plain(observation))
                done[name][-1].append(plain(actions[name]))
            observations, *_ = env.step(actions)
    return seen, done


@pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
def test_the_pages_actions_equal_the_runtimes_in_20_whole_episodes_in_chromium(tmp_path):
    learner = marl.ippo(network=marl.GRU(32), sequence=8, normalize_obs=True)
    system = marl.MultiAgentSystem(learner, "marl/spread-v0", num_envs=1, seed=2)
    out = exported(system, tmp_path / "bundle", page=True)
    seen, done = whole_episodes(marl_runtime.load(out), system.make_env())
    assert sum(map(len, done["agent_0"])) == EPISODES * 25
    assert {action for episode in done["agent_0"] for action in episode} >= {0, 1, 2}  # it is no constant
    (out / "episodes.json").write_text(json.dumps(seen))
    with served(out) as (address, asked):
        profile = f"--user-data-dir={tmp_path / 'profile'}"
        command = [BROWSER, *FLAGS, profile, f"{address}/?episodes=episodes.json"]
        said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    found = re.search(r'<pre id="episodes">(.*?)</pre>', said.stdout, re.DOTALL)
    assert found is not None, re.findall(r'<p id="error".*?</p>', said.stdout)
    assert json.loads(html.unescape(found[1])) == done
    assert "CONSOLE" not in said.stderr, said.stderr
    assert {path.partition("?")[0].strip("/") for path in asked} == {
        *("", "episodes.json", "manifest.json", "policy_0.json", "policy_0.safetensors"),
        *(set(PAGE_FILES) - {"index.html"}),
    }


# --- what it is -------------------------------------------------------------------------------------------------------


def test_the_engine_is_at_most_200_lines_and_the_page_runs_no_text_as_code():
    assert len((PAGE / "runtime.js").read_text().splitlines()) <= 200
    assert {file.name for file in PAGE.iterdir()} == set(PAGE_FILES)
    for file in PAGE.iterdir():
        text = file.read_text()
        assert not re.search(r"\beval\b|new Function|innerHTML|document\.write|import\(|https?://|TODO", text), file
        assert max(map(len, text.splitlines())) <= (120 if file.suffix == ".js" else 250), file
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', (PAGE / "index.html").read_text())[1]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_a_page_is_a_part_of_its_bundle_until_it_is_exported_without(tmp_path):
    system = system_of(marl.PPO(**ON))
    out = system.export(tmp_path / "bundle", page=True)
    assert {file.name for file in out.iterdir()} > set(PAGE_FILES)
    (out / "page.js").write_text("")
    with pytest.raises(marl_runtime.BundleError, match=r"page\.js cannot be read: 0 bytes instead of"):
        marl_runtime.load(out)
    system.export(tmp_path / "bundle", page=True)
    assert "b" in marl_runtime.load(out)
    assert not (system.export(tmp_path / "bundle") / "index.html").exists()


@node
def test_damaged_and_foreign_bundles_are_refused_in_javascript_too(tmp_path):
    out = system_of(marl.PPO(**ON)).export(tmp_path / "bundle")
    manifest = json.loads((out / "manifest.json").read_text())
    program = json.loads((out / "policy_0.json").read_text())
    program["stages"][0]["operations"][0][0] = "constructor"
    size = {"bytes": len(json.dumps(program)), "sha256": hashlib.sha256(json.dumps(program).encode()).hexdigest()}
    damages = {
        "policy_0.json is damaged": {"policy_0.json": (out / "policy_0.json").read_text().replace("tanh", "relu")},
        "bytes instead of": {"policy_0.json": "{}"},
        "no file of the bundle": {
            "manifest.json": json.dumps({**manifest, "policies": [{"program": "../x", "weights": "../y"}]})
        },
        "a bundle of format 3": {"manifest.json": json.dumps({**manifest, "format": 3})},
        "constructor is not known": {
            "policy_0.json": json.dumps(program),
            "manifest.json": json.dumps({**manifest, "files": {**manifest["files"], "policy_0.json": size}}),
        },
    }
    cases = []
    for number, files in enumerate(damages.values()):
        shutil.copytree(out, tmp_path / str(number))
        for name, text in files.items():
            (tmp_path / str(number) / name).write_text(text)
        cases.append({"folder": str(tmp_path / str(number)), "agent": "b", "episodes": []})
    for reason, found in zip(damages, played(cases, tmp_path), strict=True):
        assert reason in found["error"], found
