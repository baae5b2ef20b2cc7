"""The trained team runs decentralized: each agent from its own row and inbox, in one process or in many."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiBinary
from pettingzoo import ParallelEnv

import marl
from marl.channels import DIAL, CommNet, GraphAttention, IC3Net, Link, TarMAC
from marl.playing import processes
from marl.topology import Complete, Dynamic, Graph, Grid, Groups, Nearest, Ring, Star, Where, Within
from marl_runtime import process, wire
from marl_runtime.wire import HEADER, Kind, Wire, WireError
from tests.support.tiny import Single, Steer, Team, Turns

ROOT = Path(__file__).parents[2]
ON = {"rollout": 8, "minibatches": 1, "network": marl.MLP((16,))}
OFF = {"batch": 8, "learning_starts": 20, "buffer": 300, "network": marl.MLP((16,), "relu"), "updates_per_step": 0.2}
GRU = {"network": marl.GRU(8)}
PAIRS = {
    "ippo-commnet": (marl.ippo(channel=CommNet(), **ON), Team),
    "ippo-commnet-rounds": (marl.ippo(channel=CommNet(rounds=2, size=4), **ON), Team),
    "mappo-ic3net-gru": (marl.mappo(channel=IC3Net(), **ON | GRU), Team),
    "ia2c-tarmac-rounds": (marl.ia2c(channel=TarMAC(rounds=2), rollout=8, sharing="none"), Team),
    "maa2c-tarmac": (marl.maa2c(channel=TarMAC(signature=4, value=6), rollout=8), Team),
    "ippo-attention-gru": (marl.ippo(channel=GraphAttention(topology=Ring(directed=True)), **ON | GRU), Team),
    "ippo-attention-rounds": (marl.ippo(channel=GraphAttention(rounds=1, topology=Star()), **ON), Steer),
    "ippo-dial-box": (marl.ippo(channel=DIAL(size=3), normalize_obs=True, **ON), Steer),
    "ippo-delay-bits-budget": (
        marl.ippo(channel=CommNet(size=3, link=Link(delay=2, bits=3, budget=5, floats=2)), **ON),
        Team,
    ),
    "ippo-rounds-delay": (marl.ippo(channel=CommNet(size=3, rounds=2, link=Link(delay=1)), **ON), Team),
    "ippo-within": (
        marl.ippo(channel=CommNet(topology=Within(0.8, (0, 1))), **ON),
        Team,
    ),
    "iql-dial-gru": (marl.iql(channel=DIAL(topology=Complete(loops=True)), **OFF | GRU, sequence=4), Team),
    "vdn-commnet": (marl.vdn(channel=CommNet(rounds=1), **OFF), Team),
    "qmix-tarmac": (marl.qmix(channel=TarMAC(), **OFF, sequence=4), Team),
    "iddpg-commnet": (marl.iddpg(channel=CommNet(rounds=1), **OFF), Steer),
    "maddpg-tarmac": (marl.maddpg(channel=TarMAC(rounds=1), **OFF), Team),
    "matd3-commnet": (marl.matd3(channel=CommNet(rounds=1), **OFF), Steer),
    "masac-commnet": (marl.masac(channel=CommNet(rounds=1), **OFF), Team),
    "isac-box": (marl.isac(**OFF), Steer),
    "noisy-c51": (
        marl.iql(**OFF | {"network": marl.MLP((16,), noisy=0.5)}, dueling=True, distribution=marl.nets.Atoms()),
        Team,
    ),
    "ippo-squash": (marl.ippo(squash=True, **ON), Steer),
    "random": (marl.Random(), Team),
    "random-box": (marl.Random(), Steer),
    "fixed": (marl.Fixed((0.5, 0.5)), Team),
}


class Thread:
    """What stands in for a process where starting one for every case would take minutes: the same frames, a thread."""

    pid = 0

    def __init__(self, module: str, function: str, fds: tuple[int, ...]) -> None:
        assert (module, function) == ("marl.playing.processes", "serve")
        sock = socket.socket(fileno=os.dup(fds[0]))
        self.thread = threading.Thread(target=self._serve, args=(sock,))
        self.thread.start()

    @staticmethod
    def _serve(sock: socket.socket) -> None:
        with sock:
            processes.answer(Wire(sock))

    def wait(self, timeout: float | None = None) -> int:
        self.thread.join(timeout)
        return 0

    def kill(self) -> None:
        """Threads end by themselves once nobody talks to them."""


@pytest.fixture
def threads(monkeypatch):
    monkeypatch.setattr(processes, "spawn", Thread)
    monkeypatch.setattr(processes, "kill", lambda thread: thread.wait(5))


@pytest.mark.parametrize("name", PAIRS)
def test_apart_everybody_does_what_they_did_together(name, threads):
    config, env = PAIRS[name]
    system = marl.MultiAgentSystem(config, lambda: env(die=(None, 4), length=6), num_envs=2, seed=1)
    system.train(steps=60)
    greedy = not isinstance(config, marl.Random | marl.Fixed)
    report = system.evaluate(5, decentralized="processes", num_envs=3)
    assert not report.faults
    assert report.agreement.compared > 60
    if greedy:
        assert report.agreement.different == 0, report.agreement
        assert report.returns == report.batched.returns
    here = system.evaluate(5, decentralized=True, num_envs=3)
    assert here.returns == report.returns  # in this process and in others: the very same, chance included


@pytest.mark.parametrize("env", [Turns, lambda: Single("CartPole-v1", max_episode_steps=30)], ids=["turns", "one"])
def test_turn_based_and_single_agents_too(env, threads):
    system = marl.MultiAgentSystem(marl.ippo(**ON), env, num_envs=2)
    report = system.evaluate(4, decentralized="processes")
    assert report.agreement.different == 0


def test_turn_based_agents_who_talk(threads):
    system = marl.MultiAgentSystem(marl.ippo(channel=TarMAC(), **ON), Turns, num_envs=2)
    report = system.evaluate(4, decentralized="processes")
    assert report.agreement.different == 0


def test_teams_with_channels_of_their_own(threads):
    config = {
        "agent_[01]": marl.ippo(channel=CommNet(), **ON),
        "agent_*": marl.ia2c(channel=TarMAC(rounds=1), rollout=8),
    }
    system = marl.MultiAgentSystem(config, lambda: Team(widths=(3,) * 4, choices=(2,) * 4), num_envs=2)
    report = system.evaluate(4, decentralized="processes", silence=["agent_0", "agent_3"], shuffle_messages=True)
    assert report.agreement.different == 0
    assert report.agreement.compared == 4 * 4 * 10


@pytest.mark.parametrize("rounds", [0, 2])
def test_links_lose_the_same_messages_whoever_carries_them(threads, rounds):
    config = {
        "agent_[01]": marl.ippo(channel=CommNet(rounds=rounds), **ON),
        "agent_*": marl.ia2c(channel=TarMAC(rounds=rounds), rollout=8),
    }
    system = marl.MultiAgentSystem(config, lambda: Team(widths=(3,) * 4, choices=(2,) * 4), num_envs=2)
    for learner in system.learners:
        learner.model.actor.head.weight.data.mul_(100)
    plain = system.evaluate(6)
    report = system.evaluate(6, decentralized="processes", link="loss=0.5,noise=1,delay=1")
    assert report.agreement.different == 0
    assert report.returns != plain.returns
    assert report.changes == ("link: delay=1,loss=0.5,noise=1",) * 2


def higher(obs):
    """Agents hear those whose first number is above their own, the more the higher."""
    return (obs[..., None, :, 0] - obs[..., :, None, 0]).clamp(min=0)


@pytest.mark.parametrize(
    "topology",
    [
        Ring(hops=2, directed=True),
        Grid(),
        Groups(("agent_[01]", "*")),
        Graph([("agent_0", "agent_1", 0.5), ("agent_1", 2), (2, 2), (3, 0, 2.0)]),
        Nearest(1, (0, 1)),
        Where(speak=0, hear=1),
        Dynamic(higher),
        Within(0.9, (0,), among=Where(hear=1, among=Ring())),
    ],
    ids=lambda topology: type(topology).__name__,
)
@pytest.mark.parametrize("channel", [CommNet(size=3), TarMAC(rounds=2, link=Link(budget=4))], ids=["next", "now"])
def test_whoever_hears_whom_apart_is_together(channel, topology):
    config = marl.ippo(channel=dataclasses.replace(channel, topology=topology), **ON)
    system = marl.MultiAgentSystem(config, lambda: Team((3,) * 4, (2,) * 4, die=(3,), length=6), num_envs=2)
    system.learners[0].model.actor.head.weight.data.mul_(100)
    link = "loss=0.2,delay=1,noise=0.1,bits=4"
    together, apart = (system.evaluate(6, link=link, decentralized=one) for one in (False, True))
    assert together.returns == apart.returns
    assert together.returns != system.evaluate(6, silence=system.spec.agents).returns  # it matters who is heard


class Logistic(ParallelEnv):
    """A chaotic world: a rounding error in an action doubles with every step. Actions are numbers or choices."""

    metadata: ClassVar = {"name": "logistic_v0", "render_modes": []}
    possible_agents = ("a_0", "a_1")

    def __init__(self, action=None):
        self.space, self.action = Box(-2, 2, (3,), np.float32), action or Box(-1, 1, (1,), np.float32)

    def observation_space(self, agent):
        return self.space

    def action_space(self, agent):
        return self.action

    def see(self):
        return {a: np.array([self.x[n], self.x[1 - n], n], np.float32) for n, a in enumerate(self.possible_agents)}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents, self.time, self.x = list(self.possible_agents), 0, self.random.random(2)
        return self.see(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.time += 1
        pushed = np.array([float(np.sum(actions[agent])) for agent in self.possible_agents])
        scale = 0.05 / (self.action.high.item() if isinstance(self.action, Box) else 1.0)
        self.x = np.clip(3.9 * self.x * (1 - self.x) + scale * pushed, 0, 1)
        agents, over = self.agents, self.time >= 60
        self.agents = [] if over else agents
        rewards = {agent: float(self.x[n]) for n, agent in enumerate(agents)}
        return self.see(), rewards, dict.fromkeys(agents, False), dict.fromkeys(agents, over), {a: {} for a in agents}


CHAOS = {
    "numbers": (marl.ippo(**ON), None),
    "wide": (marl.ippo(**ON), Box(-2e4, 2e4, (1,), np.float32)),
    "remembers": (marl.ippo(**ON | GRU), None),
    "talks": (marl.ippo(channel=CommNet(rounds=0), **ON), None),
    "talks-at-once": (marl.ippo(channel=TarMAC(rounds=2), **ON | GRU), None),
    "choices": (marl.ippo(channel=CommNet(), **ON), Discrete(3)),
}


@pytest.mark.parametrize("name", CHAOS)
def test_rounding_that_grows_in_the_world_is_no_difference_between_policies(name, threads):
    config, action = CHAOS[name]
    system = marl.MultiAgentSystem(config, lambda: Logistic(action), num_envs=4, seed=0)
    system.train(steps=400)
    report = system.evaluate(4, decentralized="processes")
    assert report.agreement.compared == 4 * 60 * 2
    assert report.agreement.different == 0, report.agreement
    assert report.batched.returns == system.evaluate(4).returns
    assert report.returns == system.evaluate(4, decentralized=True).returns
    assert "on the same observations" in str(report)
    assert "batched, played apart" in str(report)


@pytest.mark.parametrize(
    "experiment",
    [
        {"remove": "agent_1"},
        {"swap": ("agent_0", "agent_2")},
        {"silence": "agent_0", "link": "loss=0.5,noise=1,delay=1"},
        {"shuffle_messages": True, "remove": "agent_2", "swap": ("agent_0", "agent_1")},
    ],
    ids=lambda experiment: "-".join(experiment),
)
def test_experiments_are_done_to_both_who_are_compared(experiment, threads):
    config = marl.ippo(channel=CommNet(rounds=0), sharing="none", **ON | GRU)
    system = marl.MultiAgentSystem(config, lambda: Team(die=(None, 4), length=6), num_envs=2, seed=1)
    system.learners[0].model.actor.head.weight.data.mul_(100)
    report = system.evaluate(5, decentralized="processes", num_envs=3, **experiment)
    assert report.agreement.different == 0, report.agreement
    assert report.returns == report.batched.returns != system.evaluate(5, num_envs=3).returns


def test_an_agent_that_does_something_else_is_found_in_the_step_in_which_it_does(threads, monkeypatch):
    act = processes.ProcessPlayer.act
    steps = {"agent_0": 0, "agent_1": 0, "agent_2": 0}

    def other_in_step_7(self):
        actions = act(self)
        steps[self.name] += 1
        return 1 - actions if self.name == "agent_1" and steps[self.name] == 8 else actions

    monkeypatch.setattr(processes.ProcessPlayer, "act", other_in_step_7)
    system = marl.MultiAgentSystem(marl.ippo(**ON), Team, num_envs=2)
    report = system.evaluate(2, decentralized="processes")
    assert report.agreement.to_dict() == {"compared": 60, "different": 2, "first": "agent_1 in step 7"}


# --- one agent, kept apart --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PAIRS if not name.startswith("random")])
def test_a_saved_agent_acts_as_it_did(name, tmp_path):
    config, env = PAIRS[name]
    system = marl.MultiAgentSystem(config, lambda: env(widths=(3, 5, 4)), num_envs=2, seed=1)
    agent = system.agent("agent_1", seed=3)
    loaded = marl.Agent.load(agent.save(tmp_path / "agent"), seed=3)
    random = np.random.default_rng(0)
    others = {f"agent_{n}": random.normal(size=agent.size).astype(np.float32) for n in (0, 2)}
    for step in range(6):
        observation = random.uniform(-1, 1, 5).astype(np.float32)
        for one in (agent, loaded):
            if one.talks and not one.rounds and step % 2:
                one.hear(others)
        assert np.array_equal(agent.act(observation), loaded.act(observation))
        if agent.talks:
            assert np.array_equal(agent.said, loaded.said)
    assert loaded.name == "agent_1"


def test_a_saved_agent_holds_its_own_parameters_and_no_more(tmp_path):
    system = marl.MultiAgentSystem(marl.ippo(sharing="none", network=marl.MLP((64,)), rollout=8), Team, num_envs=2)
    system.agent("agent_0").save(tmp_path / "agent")
    size = (tmp_path / "agent" / "tensors.safetensors").stat().st_size
    numbers = 3 * 64 + 64 + 64 * 2 + 2
    assert size < 4 * numbers + 3_000
    (kept,) = marl.checkpoint.load(tmp_path / "agent")[0].values()
    assert all(value.shape[0] == 1 for value in kept.values())
    mine = system.learners[0].model.actor.body.layers[0].weight[0]
    assert torch.equal(kept["body.layers.0.weight"][0], mine)


def test_what_is_no_agent_is_refused(tmp_path):
    system = marl.MultiAgentSystem(marl.ippo(**ON), Team, num_envs=2)
    system.save(tmp_path / "system")
    with pytest.raises(marl.CheckpointError, match="holds no single agent"):
        marl.Agent.load(tmp_path / "system")
    with pytest.raises(marl.CheckpointError):
        marl.Agent.load(tmp_path / "nowhere")
    own = marl.Custom(lambda shape, extra: torch.nn.Linear(shape[0] + extra, 4), 4)
    code = marl.MultiAgentSystem(marl.ippo(**ON | {"network": own}), Team, num_envs=2)
    with pytest.raises(marl.ConfigError, match=r"agent_0.*code of yours"):
        code.agent("agent_0").save(tmp_path / "agent")
    with pytest.raises(marl.ConfigError, match=r"agent_0.*code of yours"):
        code.evaluate(1, decentralized="processes")
    assert code.evaluate(1, decentralized=True).episodes == 1


def test_twins_share_parameters_and_nothing_else():
    system = marl.MultiAgentSystem(marl.ippo(**ON | GRU), Team, num_envs=2)
    agent = system.agent("agent_0")
    first = agent.act(np.ones(3, np.float32)), agent._carry.copy()
    twin = agent.twin()
    assert (twin._carry == 0).all()
    assert twin.act(np.ones(3, np.float32)) == first[0]
    assert np.array_equal(twin._carry, first[1])
    assert twin.net is agent.net


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def ends():
    one, other = socket.socketpair()
    for sock in (one, other):
        sock.settimeout(120)  # only a hang takes that long
    with one, other:
        yield Wire(one, 3), Wire(other, 3)


FIELDS = [((3, 2), "float32"), ((3,), "bool"), ((), "int64")]


def test_frames_carry_arrays_as_they_are(ends):
    mine, theirs = ends
    arrays = [np.arange(6, dtype=np.float64).reshape(3, 2), np.array([True, False, True]), np.array(-7)]
    mine.send(Kind.LOOK, FIELDS, arrays)
    found = theirs.receive(Kind.LOOK, FIELDS)
    for (shape, dtype), sent, got in zip(FIELDS, arrays, found, strict=True):
        assert got.shape == shape
        assert got.dtype == dtype
        assert (got == sent).all()
    mine.send(Kind.END)
    assert theirs.receive(Kind.LOOK, FIELDS, ends=True) is None
    with pytest.raises(WireError, match=r"LOOK: expected an array of shape \(3, 2\), got \(2, 2\)"):
        mine.send(Kind.LOOK, FIELDS, [np.zeros((2, 2)), *arrays[1:]])


SIZE = 3 * 2 * 4 + 3 + 8


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((b"HTTP", 1, Kind.LOOK, 3, SIZE), "begins with b'HTTP'"),
        ((b"MARL", 2, Kind.LOOK, 3, SIZE), "version 2, expected 1"),
        ((b"MARL", 1, Kind.SAY, 3, SIZE), "expected a frame LOOK, got SAY"),
        ((b"MARL", 1, 77, 3, SIZE), "expected a frame LOOK, got 77"),
        ((b"MARL", 1, Kind.LOOK, 4, SIZE), "for 4 copies, expected 3"),
        ((b"MARL", 1, Kind.LOOK, 3, SIZE + 1), f"LOOK: expected {SIZE} bytes, got {SIZE + 1}"),
        ((b"MARL", 1, Kind.LOOK, 3, 2**60), f"LOOK: expected {SIZE} bytes"),
    ],
)
def test_a_frame_that_does_not_fit_is_refused_with_the_reason(ends, header, reason):
    mine, theirs = ends
    mine.sock.sendall(HEADER.pack(*header) + b"\0" * 64)
    with pytest.raises(WireError, match=reason):
        theirs.receive(Kind.LOOK, FIELDS)


def test_words_and_errors(ends):
    mine, theirs = ends
    mine.send_text(Kind.START, "a folder")
    assert theirs.receive_text(Kind.START) == "a folder"
    mine.send_text(Kind.START, "a folder that is no text: \udcff")
    assert theirs.receive_text(Kind.START) == "a folder that is no text: \udcff"
    mine.send_text(Kind.ERROR, "no such agent")
    with pytest.raises(WireError, match=r"^no such agent$"):
        theirs.receive(Kind.READY, processes.READY)
    mine.sock.close()
    with pytest.raises(EOFError):
        theirs.receive(Kind.READY, processes.READY)


def test_nothing_on_the_wire_is_pickled():
    for module in (processes, process, wire):
        assert "pickle" not in Path(module.__file__).read_text().replace("unpickled", "")


# --- processes --------------------------------------------------------------------------------------------------------


def children() -> set[int]:
    """Processes that this one has started and that are still there."""
    found = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(os.getpid())], capture_output=True, text=True, check=False
    )
    return {int(word) for word in found.stdout.split()}


def test_an_agent_process_that_dies_is_reported_and_the_others_play_on(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where no other test's agents come and go
    system = marl.MultiAgentSystem(
        marl.ippo(channel=CommNet(), **ON), lambda: Team(widths=(3, 3), choices=(2, 2)), num_envs=2, seed=2
    )
    looked: dict[str, int] = {}
    pids: dict[str, int] = {}
    observe = processes.ProcessPlayer.observe

    def kill_in_step_12(self, view):
        looked[self.name] = looked.get(self.name, 0) + 1
        pids[self.name] = self.pid or pids[self.name]
        if self.name == "agent_1" and looked[self.name] == 12:
            os.kill(self.pid, signal.SIGKILL)
        observe(self, view)

    monkeypatch.setattr(processes.ProcessPlayer, "observe", kill_in_step_12)
    report = system.evaluate(6, decentralized="processes", num_envs=2)
    assert report.faults == {"agent_1": f"process {pids['agent_1']} was ended by SIGKILL"}
    assert "agent_1" in str(report)
    assert report.episodes == 6
    assert set(report.episode_lengths) == {10}
    assert pids["agent_0"] != pids["agent_1"] != os.getpid()
    # Nobody was wrong while both lived; later the other one still acts, though what it hears has changed.
    first = report.agreement.first
    assert first is None or int(first.split()[-1]) >= 11
    assert not children() & set(pids.values())
    assert not list(tmp_path.iterdir())


def test_agent_processes_die_with_a_killed_evaluation(tmp_path):
    program = textwrap.dedent("""
        import time, marl
        from marl.playing import processes
        from tests.support.tiny import Team

        def observe(self, view):
            print(self.pid, flush=True)
            time.sleep(600)

        processes.ProcessPlayer.observe = observe
        system = marl.MultiAgentSystem(marl.ippo(rollout=8), lambda: Team(widths=(3,), choices=(2,)), num_envs=1)
        system.evaluate(1, decentralized="processes")
    """)
    parent = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    os.kill(pid, 0)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until = time.monotonic() + 120  # only a hang takes that long
    while time.monotonic() < until:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            time.sleep(0.05)
            continue
        break
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("late", [0.0, 0.3], ids=["at once", "told more when it is gone"])
def test_an_agent_that_cannot_be_loaded_ends_the_evaluation(threads, monkeypatch, late):
    def broken(path, seed=None):
        raise marl.CheckpointError("this agent makes no sense here")

    def send(wire, kind, *frame):
        time.sleep(late)
        sends(wire, kind, *frame)

    sends = processes.Wire.send
    monkeypatch.setattr(processes.Wire, "send", send)
    system = marl.MultiAgentSystem(marl.ippo(**ON), Team, num_envs=2)
    monkeypatch.setattr(marl.Agent, "load", broken)
    with pytest.raises(marl.types.ResourceError, match=r"agent_0.*did not start.*makes no sense here"):
        system.evaluate(1, decentralized="processes")


# --- experiments ------------------------------------------------------------------------------------------------------


class Whisper(ParallelEnv):
    """The speaker sees a bit that changes with every step; the listener sees what the speaker did last, and is paid for
    saying what bit that was."""

    metadata = {"name": "whisper_v0", "render_modes": []}

    def __init__(self, length=16):
        self.possible_agents = ["speaker", "listener"]
        self.length = length

    def observation_space(self, agent):
        return MultiBinary(2)

    def action_space(self, agent):
        return Discrete(2)

    def _look(self):
        said = [0, 0] if self.said is None else [int(self.said == 0), int(self.said == 1)]
        return {"speaker": np.array([self.bit, 1]), "listener": np.array(said)}

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.time, self.said, self.before = 0, None, None
        self.bit = int(self.random.integers(2))
        return self._look(), {agent: {} for agent in self.agents}

    def step(self, actions):
        reward = float(self.before is not None and actions["listener"] == self.before)
        self.before, self.said = self.bit, int(actions["speaker"])
        self.bit = int(self.random.integers(2))
        self.time += 1
        over = self.time == self.length
        agents = list(self.agents)
        self.agents = [] if over else agents
        rewards = {"speaker": 0.0, "listener": reward}
        return self._look(), rewards, dict.fromkeys(agents, False), dict.fromkeys(agents, over), {a: {} for a in agents}


def tell(obs):
    return np.stack((1 - obs[..., 0], obs[..., 0]), axis=-1)


@pytest.fixture
def whisper():
    agents = {"speaker": marl.Scripted(tell), "listener": marl.Scripted(lambda obs: obs)}
    return marl.MultiAgentSystem(agents, Whisper, num_envs=2, seed=5)


ENTRIES = "listener<speaker:0-1"


@pytest.mark.parametrize("decentralized", [False, True])
def test_messages_in_observations_can_be_shuffled_and_silenced(whisper, decentralized):
    play = {"episodes": 32, "decentralized": decentralized, "message_entries": ENTRIES}
    assert whisper.evaluate(**play).mean_return == 15  # the first step has nothing to say about
    shuffled = whisper.evaluate(**play, shuffle_messages=True)
    assert shuffled.mean_return == pytest.approx(7.5, abs=1)
    assert "another episode" in str(shuffled)
    silent = whisper.evaluate(**play, silence="speaker")
    assert silent.mean_return == pytest.approx(7.5, abs=1)
    assert silent.changes == ("speaker is silent",)
    assert whisper.evaluate(**play, remove="speaker").mean_return == pytest.approx(7.5, abs=1)
    assert whisper.evaluate(**play).mean_return == 15


@pytest.mark.parametrize(
    "experiment",
    [
        {"silence": "agent_1"},
        {"remove": ["agent_2"]},
        {"shuffle_messages": True},
        {"silence": ["agent_0"], "remove": ["agent_1"], "shuffle_messages": True, "link": "delay=1,bits=4"},
        {"tamper": lambda sent: sent * 0.5, "silence": "agent_0"},
    ],
    ids=["silence", "remove", "shuffle", "all", "tamper"],
)
@pytest.mark.parametrize("rounds", [0, 2])
def test_experiments_do_the_same_together_and_apart(experiment, rounds):
    system = marl.MultiAgentSystem(marl.ippo(channel=CommNet(rounds=rounds), **ON), Team, num_envs=2, seed=4)
    loud_head(system)
    plain = system.evaluate(8, num_envs=4)
    together, apart = (system.evaluate(8, num_envs=4, decentralized=how, **experiment) for how in (False, True))
    assert together.returns == apart.returns
    assert together.changes == apart.changes
    assert system.evaluate(8, num_envs=4).returns == plain.returns  # and leave no trace


def loud_head(system):
    """Untrained heads hardly react to what they are given."""
    with torch.no_grad():
        system.learners[0].model.actor.head.weight.mul_(100)


def test_silence_is_the_tamper_that_sends_nothing():
    system = marl.MultiAgentSystem(marl.ippo(channel=CommNet(), **ON), Team, num_envs=2, seed=4)
    loud_head(system)

    def hush(sent):
        return sent * torch.tensor([1.0, 0.0, 1.0]).view(1, 3, 1)

    assert system.evaluate(8, silence="agent_1").returns == system.evaluate(8, tamper=hush).returns
    assert system.evaluate(8, silence=system.spec.agents).returns != system.evaluate(4).returns


def test_a_removed_agent_acts_at_random_and_legally():
    system = marl.MultiAgentSystem(marl.Fixed(0), lambda: Team(widths=(3, 3), choices=(2, 3)), num_envs=2)
    report = system.evaluate(200, remove="agent_0")
    # agent_0 is paid where its choice is the sign: half the time for 0, half for chance; agent_1 always chooses 0.
    assert report.returns_per_agent["agent_0"] == pytest.approx(5, abs=0.4)
    again = system.evaluate(200, remove="agent_0")
    assert again.returns == report.returns
    assert system.evaluate(200, remove="agent_0", seed=8).returns != report.returns


def test_swapped_agents_play_with_each_others_policy():
    config = {"agent_0": marl.Fixed(0), "agent_*": marl.Fixed(1)}
    system = marl.MultiAgentSystem(config, Lamps, num_envs=2)
    assert system.evaluate(4).returns_per_agent == {"agent_0": 0, "agent_1": 10, "agent_2": 10}
    report = system.evaluate(4, swap=("agent_2", "agent_0"))
    assert report.returns_per_agent == {"agent_0": 10, "agent_1": 10, "agent_2": 0}
    assert report.changes == ("agent_2 and agent_0 play with each other's policy",)


class Lamps(Team):
    """Everybody is paid for action 1."""

    def step(self, actions):
        answer = super().step(actions)
        return answer[0], {agent: float(action) for agent, action in actions.items()}, *answer[2:]


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ({"silence": "agent_9"}, "silence: unknown agent 'agent_9'; did you mean"),
        ({"remove": "agnet_0"}, "remove: unknown agent 'agnet_0'; did you mean 'agent_0'"),
        ({"swap": ("agent_0", "agent_9")}, "swap: unknown agent"),
        ({"swap": ("agent_0", "agent_0")}, "named twice"),
        ({"swap": ("agent_0", "agent_1")}, "differ in their observation space"),
        ({"silence": "agent_0"}, "'agent_0' has no channel"),
        ({"shuffle_messages": True}, "no team has a channel"),
        ({"shuffle_messages": True, "message_entries": "agent_0:1-2", "num_envs": 1}, "at least two episodes"),
        ({"message_entries": "agent_0"}, "expected LISTENER:FIRST-LAST"),
        ({"message_entries": "agent_0:1-3"}, "'agent_0' sees entries 0 to 2"),
        ({"message_entries": "agent_0:2-1"}, "'agent_0' sees entries 0 to 2"),
        ({"message_entries": "agent_7:2-2"}, "message entries: unknown agent 'agent_7'"),
        ({"link": "loss=0.1"}, "no team of this system has a channel"),
        ({"link": 0.1}, "link: expected a marl.Link or text"),
        ({"swap": ("agent_0",)}, "swap: expected two agents"),
        ({"swap": "agent_0"}, "swap: expected two agents"),
        ({"decentralized": "process"}, "decentralized: expected True, False or 'processes', got 'process'"),
    ],
)
def test_what_cannot_be_done_is_refused(keywords, reason):
    system = marl.MultiAgentSystem(marl.ippo(**ON), lambda: Team(widths=(3, 4), choices=(2, 2)), num_envs=2)
    with pytest.raises(marl.ConfigError, match=reason):
        system.evaluate(4, **keywords)


@pytest.mark.parametrize("name", ["speaker_listener-v0", "reference-v0", "crypto-v0", "world_comm-v0"])
def test_worlds_know_where_their_messages_stand(name):
    """What one says is what these entries show next: a word each."""
    import marl_envs  # noqa: F401

    from marl.adapters import make
    from marl.playing.experiment import Entries

    env = make(f"marl/{name}", 4)
    team = env.spec.teams[0]
    entries = [Entries.parse(text) for text in env.message_entries]
    assert entries
    random = np.random.default_rng(0)
    for one in entries:
        speaker, listener = team.agents.index(one.speaker), team.agents.index(one.listener)
        seen = []
        for choice in range(team.action.widths[speaker]):
            env.reset(3)
            action = random.integers(0, 1, (4, team.num_agents))
            action[:, speaker] = choice
            seen.append(env.step([action]).teams[0].obs[:, listener].copy())
        varied = np.flatnonzero(np.ptp(np.stack(seen), axis=0).max(0) > 0)
        where = range(one.first, one.last + 1)
        assert set(where) <= set(varied.tolist())
        words = {tuple(row[0, one.first : one.last + 1]) for row in seen}
        assert len(words) == len(where)
        assert all(sum(word) == 1 for word in words)
