"""The replay against a record kept by hand: successors, ends, turns, windows, restoring."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from gymnasium.spaces import Dict, MultiBinary

import marl
from marl import adapters
from marl.grid.scope import Joint, Local
from marl.memory.base import Decision
from marl.memory.limits import free_memory
from marl.memory.priorities import Priorities
from marl.memory.replay import Replay
from marl.memory.sample import Sample
from tests.support.tiny import Constant, Team, Turns


class Record:
    """Every agent's transitions as a list per copy: the slow way."""

    def __init__(self, copies, agents):
        self.done = [[[] for _ in range(agents)] for _ in range(copies)]
        self.open = [[None] * agents for _ in range(copies)]

    def act(self, team, action):
        """Note whose turn it is, what it sees and does; that ends the turn before."""
        for e, row in enumerate(self.open):
            for n in range(len(row)):
                if team.acting[e, n]:
                    if row[n] is not None:
                        self.close(e, n, team.obs[e, n].copy(), "on")
                    row[n] = [team.obs[e, n].copy(), action[e, n].item(), 0.0]

    def earn(self, team, reward, terminated, truncated):
        """Note what was earned and who ended."""
        for e, row in enumerate(self.open):
            for n in range(len(row)):
                if row[n] is None:
                    continue
                row[n][2] += float(reward[e, n])
                if terminated[e, n] or truncated[e, n]:
                    self.close(e, n, team.next_obs[e, n].copy(), "end" if terminated[e, n] else "cut")

    def close(self, e, n, obs, how):
        self.done[e][n].append((*self.open[e][n], obs, how))
        self.open[e][n] = None


def play(env, steps, credit=None, scope=None, capacity=10_000, seed=0, trees=0, **options):
    """Fill a replay and a record with the same play."""
    copies = 3
    batch = adapters.make(env, copies, None)
    spec = batch.spec
    credit = credit or marl.Independent()
    memory = Replay(spec, spec.teams[0], scope or Local(), credit, capacity, copies, 0, **options)
    if trees:
        memory.priorities = Priorities(trees, memory.rows * copies, 1.0)
    record = Record(copies, spec.teams[0].num_agents)
    random = torch.Generator().manual_seed(seed)
    step = batch.reset(seed)
    memory.start(step)
    for _ in range(steps):
        team = step.teams[0]
        action = torch.randint(2, team.acting.shape, generator=random)
        record.act(team, action)
        memory.current()
        memory.decide(Decision(action, action, action.float(), torch.zeros(*action.shape, 0)))
        step = batch.step([action.numpy()])
        team = step.teams[0]
        paid = team.reward
        if not isinstance(credit, marl.Independent):
            paid = np.broadcast_to(paid.mean(1, keepdims=True), paid.shape)
        record.earn(team, paid, team.terminated, team.truncated)
        memory.observe(step)
    team = step.teams[0]
    for e in range(copies):  # the newest row ends open turns
        for n in range(spec.teams[0].num_agents):
            if team.acting[e, n] and record.open[e][n] is not None:
                record.close(e, n, team.obs[e, n].copy(), "on")
    batch.close()
    return memory, record


def everything(memory):
    """Places of all complete rows, oldest first."""
    rows = (memory.head - memory.size + torch.arange(memory.size)) % memory.rows
    return (rows.unsqueeze(1) * memory.num_envs + torch.arange(memory.num_envs)).reshape(-1, 1)


def found(memory, n_step=1, discount=0.9):
    """What the replay says, in the record's form: per copy and agent."""
    index = everything(memory)
    sample = memory.sample(index, 1, n_step, discount)
    agents = memory.team.num_agents
    out = [[[] for _ in range(agents)] for _ in range(memory.num_envs)]
    for b, place in enumerate(index[:, 0].tolist()):
        for n in range(agents):
            if sample.complete[0, b, n]:
                out[place % memory.num_envs][n].append(
                    (
                        sample.obs[0, b, n].numpy(),
                        int(sample.action[0, b, n]),
                        float(sample.reward[0, b, n]),
                        sample.next_obs[0, b, n].numpy(),
                        float(sample.discount[0, b, n]),
                    )
                )
    return out


def expected(transitions, n_step, discount):
    """n-step sums along one agent's own turns."""
    for k, (obs, action, *_) in enumerate(transitions):
        total, factor = 0.0, 1.0
        for turn in transitions[k : k + n_step]:
            _, _, reward, after, how = turn
            total += factor * reward
            factor *= discount
            if how != "on":
                break
        yield obs, action, total, after, 0.0 if how == "end" else factor


ENVS = {
    "truncated": lambda: Team(length=4),
    "terminated": lambda: Team(length=3, terminal=True),
    "deaths": lambda: Team(length=6, die=(2, None, 4)),
    "turns": lambda: Turns(),
    "one step": lambda: Team(length=1),
}


@pytest.mark.parametrize("n_step", [1, 3])
@pytest.mark.parametrize("name", ENVS)
def test_every_transition_is_what_happened(name, n_step):
    memory, record = play(ENVS[name], 40)
    ours = found(memory, n_step)
    for copy in range(memory.num_envs):
        for agent in range(memory.team.num_agents):
            wanted = list(expected(record.done[copy][agent], n_step, 0.9))
            assert len(ours[copy][agent]) == len(wanted) > 5
            for (obs, action, total, after, worth), mine in zip(wanted, ours[copy][agent], strict=True):
                assert np.array_equal(mine[0], obs)
                assert mine[1] == action
                assert mine[2] == pytest.approx(total, abs=1e-5)
                assert mine[4] == pytest.approx(worth, abs=1e-6)
                if worth > 0:
                    assert np.array_equal(mine[3], after)


@pytest.mark.parametrize("name", ENVS)
def test_an_overwritten_ring_keeps_the_newest_transitions(name):
    memory, record = play(ENVS[name], 60, capacity=30)
    ours = found(memory)
    for copy in range(memory.num_envs):
        for agent in range(memory.team.num_agents):
            mine = ours[copy][agent]
            wanted = list(expected(record.done[copy][agent], 1, 0.9))[-len(mine) :]
            assert mine
            for (obs, _, total, after, worth), row in zip(wanted, mine, strict=True):
                assert np.array_equal(row[0], obs)
                assert row[2] == pytest.approx(total, abs=1e-5)
                if worth > 0:
                    assert np.array_equal(row[3], after)


def test_a_first_death_after_the_ring_has_gone_round_counts_what_was_earned_then():
    memory, record = play(lambda: Team(length=40, die=(25, None, None)), 27, capacity=30)
    ours = found(memory)
    for copy in range(memory.num_envs):
        for agent in range(3):
            mine = ours[copy][agent]
            wanted = list(expected(record.done[copy][agent], 1, 0.9))[-len(mine) :]
            assert [row[2] for row in mine] == pytest.approx([row[2] for row in wanted])
            assert [row[4] for row in mine] == pytest.approx([row[4] for row in wanted])


@pytest.mark.parametrize("capacity", [30, 10_000])
@pytest.mark.parametrize("single", [False, True])
@pytest.mark.parametrize("name", [*ENVS, "late death"])
def test_by_priority_what_is_known_is_drawn_and_nothing_else(name, single, capacity):
    env = ENVS.get(name, lambda: Team(length=40, die=(25, None, None)))
    agents = 2 if name == "turns" else 3
    memory, _ = play(env, 47, capacity=capacity, trees=1 if single else agents)
    drawable = memory.priorities.nodes[:, memory.priorities.leaves :] > 0
    index = everything(memory)
    complete = memory.sample(index, 1, 1, 0.9).complete[0]  # (B, N)
    wanted = np.zeros_like(drawable)
    wanted[:, index[:, 0]] = complete.any(-1).numpy() if single else complete.t().numpy()
    assert np.array_equal(drawable, wanted)


def test_who_acts_next_is_who_lives_on():
    memory, _ = play(ENVS["deaths"], 40)
    index = everything(memory)[: -memory.num_envs]
    sample = memory.sample(index, 1, 1, 0.9)
    onward = memory.acting.flatten(0, 1)[index[:, 0] + memory.num_envs]
    going = ~(memory.truncated | memory.terminated).flatten(0, 1)[index[:, 0]].any(-1)  # nobody's episode ends here
    assert torch.equal(sample.next_acting[0][going], onward[going])
    died = memory.terminated.flatten(0, 1)[index[:, 0]]
    assert died.any()
    assert not sample.next_acting[0][died].any()


def test_at_places_of_their_own_agents_begin_episodes_each_by_itself():
    memory, _ = play(ENVS["truncated"], 40)
    memory.carry = torch.ones(*memory.acting.shape, 2)
    memory._rows["carry"] = memory.carry.numpy()
    index = torch.randint(36 * 3, (50, 3), generator=torch.Generator().manual_seed(0))
    sample = memory.sample(index, 1, 1, 0.9)
    begins = memory.started.flatten()[index]
    assert begins.any()
    assert torch.equal(sample.carry, (~begins).float().unsqueeze(-1).expand(50, 3, 2))
    assert not sample.started.any()


class Masked(Team):
    """As Team, with masks that differ from step to step."""

    def observation_space(self, agent):
        return Dict({"observation": self._obs[agent], "action_mask": MultiBinary(2)})

    def _look(self, agents):
        return {
            a: {"observation": x, "action_mask": (x[:2] > 0) | (x[:2] >= x[:2].max())}
            for a, x in super()._look(agents).items()
        }

    def step(self, actions):
        self.seen = {a: {0: seen["observation"][0]} for a, seen in self.seen.items()}
        return super().step(actions)


@pytest.mark.parametrize("die", [(None,) * 4, (2, None, 3, None)], ids=["all live", "deaths"])
def test_of_other_teams_it_is_known_what_they_may_do_where_an_episode_is_cut(die):
    batch = adapters.make(lambda: Masked(widths=(3,) * 4, choices=(2,) * 4, length=5, die=die), 2, ["agent_[01]", "*"])
    spec = batch.spec
    memory = Replay(spec, spec.teams[0], Joint(of="all"), marl.Independent(), 1_000, 2, 0, other_actions=True)
    random = np.random.default_rng(0)
    step = batch.reset(0)
    memory.start(step)
    wanted = []
    for _ in range(30):
        actions = [random.integers(0, 2, team.acting.shape) for team in step.teams]
        chosen = torch.from_numpy(actions[0])
        memory.decide(Decision(chosen, chosen, chosen.float(), torch.zeros(2, 2, 0)))
        memory.record_joint_action([torch.from_numpy(action) for action in actions], step)
        step = batch.step(actions)
        other = step.teams[1]
        goes_on = other.truncated | other.acting & ~step.started[:, None]
        wanted.append((actions[1], other.next_action_mask.copy(), goes_on, step.started.copy()))
        memory.observe(step)
    batch.close()
    sample = memory.sample(everything(memory), 1, 1, 0.9)
    cuts = 0
    for b, (row, copy) in enumerate((row, copy) for row in range(30) for copy in range(2)):
        did, action_mask, goes_on, started = wanted[row]
        if not (sample.discount[0, b] > 0).any():
            continue
        cuts += int(started[copy])
        assert torch.equal(sample.others[0][0, b], torch.from_numpy(did[copy]))
        assert torch.equal(sample.next_acting_others[0][0, b], torch.from_numpy(goes_on[copy]))
        living = goes_on[copy]
        assert np.array_equal(sample.next_action_mask_others[0][0, b].numpy()[living], action_mask[copy][living])
        later = did if row == 29 or started[copy] else wanted[row + 1][0]  # what is not known is as it was
        assert torch.equal(sample.next_others[0][0, b], torch.from_numpy(later[copy]))
    assert cuts == 12
    assert not sample.next_action_mask_others[0].all()


def test_three_step_targets_by_hand():
    memory, _ = play(lambda: Constant(length=4), 9)  # reward 1 a step, cut after 4
    sample = memory.sample(everything(memory)[::3], 1, 3, 0.5)
    # rows 0..3 of the first episode, 0..3 of the second, row 0 of the third: sums stop at the cut, which bootstraps
    assert sample.reward[0, :, 0].tolist() == [1.75, 1.75, 1.5, 1.0, 1.75, 1.75, 1.5, 1.0, 1.0]
    assert sample.discount[0, :, 0].tolist() == [0.125, 0.125, 0.25, 0.5, 0.125, 0.125, 0.25, 0.5, 0.5]
    memory, _ = play(lambda: Constant(length=4, terminal=True), 5)
    sample = memory.sample(everything(memory)[::3], 1, 3, 0.5)
    assert sample.reward[0, :, 0].tolist() == [1.75, 1.75, 1.5, 1.0, 1.0]
    assert sample.discount[0, :, 0].tolist() == [0.125, 0, 0, 0, 0.5]


def test_a_team_reward_goes_on_after_a_death_and_ends_with_the_team():
    memory, _ = play(lambda: Team(length=6, die=(2, None, None)), 6, credit=marl.TeamReward())
    sample = memory.sample(everything(memory)[::3], 1, 1, 1.0)
    complete = sample.complete[0, :, 0].tolist()
    assert complete == [True, True, False, False, False, False]  # the first agent acts twice
    assert sample.reward[0, 1:, 1].sum() == pytest.approx(float(sample.reward[0, 1, 0]), abs=1e-5)


def test_with_a_mixer_turns_are_the_teams():
    memory, _ = play(lambda: Team(length=6, die=(2, None, None)), 12, credit=marl.VDN(), scope=Joint())
    sample = memory.sample(everything(memory)[::3], 1, 1, 1.0)
    assert sample.complete.all()
    assert (sample.reward == sample.reward[..., :1]).all()
    assert sample.acting[0, :, 0].tolist() == [True, True, False, False, False, False] * 2
    assert sample.next_acting[0, :, 0].tolist()[:4] == [True, False, False, False]
    assert sample.next_joint.shape == sample.joint.shape == (1, 12, 9)
    assert sample.discount[0, 5, 0] == 1  # the others were cut, so the team was


def test_a_window_is_the_rows_as_played():
    memory, _ = play(lambda: Team(length=5), 30)
    index = memory.places(8, 6, torch.Generator().manual_seed(0))
    sample = memory.sample(index, 6, 1, 0.9)
    for b, place in enumerate(index[:, 0].tolist()):
        row, copy = divmod(place, memory.num_envs)
        assert torch.equal(sample.obs[:, b], memory.obs[row : row + 6, copy])
        assert torch.equal(sample.started[:, b], memory.started[row : row + 6, copy])
        ends = memory.truncated[row : row + 5, copy].any(-1)
        assert sample.successor[:-1, b, 0].tolist() == [-1 if end else t + 1 for t, end in enumerate(ends.tolist())]
        assert (sample.successor[-1] == -1).all()


@pytest.mark.parametrize("name", ENVS)
def test_a_restored_replay_samples_the_same(name):
    memory, _ = play(ENVS[name], 25, capacity=45, scope=Joint())
    spec = memory.spec
    twin = Replay(spec, spec.teams[0], Joint(), marl.Independent(), 45, memory.num_envs, 0)
    twin.load_state_dict(memory.state_dict())
    ours, theirs = (m.sample(everything(m), 1, 2, 0.9) for m in (memory, twin))
    for field, value in vars(ours).items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, getattr(theirs, field)), field


def first_choices(memory, batch):
    """One step of two copies of three agents, not yet observed."""
    memory.decide(Decision(*[torch.zeros(2, 3, dtype=torch.int64)] * 2, torch.zeros(2, 3), torch.zeros(2, 3, 0)))
    return batch.step([np.zeros((2, 3), dtype=np.int64)])


def test_a_discarded_episode_is_never_learnt_from():
    batch = adapters.make(lambda: Team(length=9), 2, None)
    memory = Replay(batch.spec, batch.spec.teams[0], Local(), marl.Independent(), 100, 2, 0)
    memory.priorities = Priorities(3, memory.rows * 2, 1.0)
    step = batch.reset(0)
    memory.start(step)
    for t in range(6):
        step = first_choices(memory, batch)
        if t == 4:
            step.discarded[0] = step.started[0] = True
        memory.observe(step)
        step.discarded[:] = False
    sample = memory.sample(everything(memory), 1, 1, 0.9)
    assert sample.complete[0, 0::2, 0].tolist() == [False] * 5 + [True]
    assert sample.complete[0, 1::2].all()
    places = memory.priorities.leaves + everything(memory)[:, 0].numpy()
    assert np.array_equal(memory.priorities.nodes[:, places] > 0, sample.complete[0].t().numpy())


def test_who_first_waits_when_a_copy_is_discarded_has_an_open_turn():
    batch = adapters.make(lambda: Team(length=9), 2, None)
    memory = Replay(batch.spec, batch.spec.teams[0], Local(), marl.Independent(), 100, 2, 0)
    step = batch.reset(0)
    memory.start(step)
    for t in range(3):
        step = first_choices(memory, batch)
        if t == 2:
            step.discarded[0] = step.started[0] = True
            step.teams[0].acting[1, 0] = False
        memory.observe(step)
    complete = memory.sample(everything(memory), 1, 1, 0.9).complete[0]
    assert not complete[0::2].any()
    assert complete[1::2].tolist() == [[True] * 3, [True] * 3, [False, True, True]]


def test_between_an_action_and_its_outcome_the_oldest_row_is_what_it_was():
    batch = adapters.make(lambda: Team(length=4), 2, None)
    memory = Replay(batch.spec, batch.spec.teams[0], Local(), marl.Independent(), 10, 2, 1)
    memory.start(batch.reset(0))
    for t in range(9):
        action = torch.zeros(2, 3, dtype=torch.int64)
        memory.decide(Decision(action, action, torch.zeros(2, 3), torch.full((2, 3, 1), float(t + 1))))
        if t > 0:
            oldest = memory.sample(everything(memory)[:2], 1, 1, 0.9)
            assert torch.equal(oldest.carry, torch.full((2, 3, 1), float(max(t - 5, 0))))
        memory.observe(batch.step([action.numpy()]))


def test_files_hold_what_memory_would(tmp_path, monkeypatch):
    memory, _ = play(lambda: Team(length=4), 20)
    on_disk, _ = play(lambda: Team(length=4), 20, directory=str(tmp_path / "new"))
    other, _ = play(lambda: Team(length=4), 20, seed=1, directory=str(tmp_path / "new"))  # another run
    assert torch.equal(memory.obs, on_disk.obs)
    assert not torch.equal(memory.obs, other.obs)
    assert str(tmp_path / "new") in Path("/proc/self/maps").read_text()
    (tmp_path / "file").touch()
    with pytest.raises(marl.ConfigError, match="buffer_dir: cannot write to"):
        play(lambda: Team(length=4), 20, directory=str(tmp_path / "file"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1_000))
    with pytest.raises(marl.types.ResourceError, match="are free in"):
        play(lambda: Team(length=4), 20, directory=str(tmp_path))


def test_a_containers_limit_is_a_limit(tmp_path):
    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    assert free_memory(tmp_path) is None
    write("proc/meminfo", "MemTotal:  9000 kB\nMemAvailable:  4000 kB\nHugePages_Free:  0\n")
    write("sys/fs/cgroup/memory.max", "max\n")
    write("sys/fs/cgroup/memory.current", "5000\n")
    assert free_memory(tmp_path) == 4000 * 1024
    write("sys/fs/cgroup/memory.max", "8000\n")
    assert free_memory(tmp_path) == 3000
    write("sys/fs/cgroup/memory.stat", "anon 4000\ninactive_file 500\n")
    assert free_memory(tmp_path) == 3500
    write("sys/fs/cgroup/memory/memory.limit_in_bytes", "2000\n")
    write("sys/fs/cgroup/memory/memory.usage_in_bytes", "1200\n")
    assert free_memory(tmp_path) == 800


def test_memory_is_what_its_arrays_need():
    memory, _ = play(lambda: Team(length=25), 3_000, capacity=100_000)
    rows = memory.rows * memory.num_envs
    needed = rows * (3 * (3 * 4 + 8 + 4 + 4 + 1 + 1 + 1) + 1)  # obs, action, reward, link, flags; started
    assert memory.nbytes == pytest.approx(needed, rel=0.1)


@pytest.mark.parametrize("others", [0, 2])
def test_a_sample_is_the_sum_of_its_parts(others):
    values = {field.name: torch.rand(2) for field in dataclasses.fields(Sample)}
    several = [name for name in values if name.endswith("others")]
    values |= {"action_mask": None} | {name: tuple(torch.rand(others, 3)) for name in several}
    values["next_action_mask_others"] = (None,) * others
    sample = Sample(**values)
    again = Sample.of(sample.tensors(), others)
    assert [id(part) for part in again.tensors()] == [id(part) for part in sample.tensors()]
    assert all(getattr(again, name) is value or name.endswith("others") for name, value in values.items())
    assert [len(getattr(again, name)) for name in several] == [others] * 5
