"""Leagues in training: who plays what, who learns from it, and that a league resumes as if it had never stopped."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

import marl
from marl.curriculum import DomainRandomization, Rating, Stage, Stages
from marl.playing.team import OWN
from tests.league.mixtures import throws_exploitability
from tests.support.equality import assert_equal_systems
from tests.support.leagues import PPO, rps
from tests.support.tiny import Constant, Team, Turns
from tests.support.watching import Watch

DQN = marl.iql(learning_starts=16, batch=8, buffer=400, network=marl.MLP((16,)))
GRU = marl.ippo(rollout=8, sequence=4, minibatches=2, network=marl.GRU(8))
LEAGUES = {
    "uniform": marl.League(snapshot_every=30, window=2, opponents=(marl.Fixed(0),)),
    "pfsp": marl.League(snapshot_every=30, matchmaking="pfsp", rating="openskill"),
    "alternate": marl.League(snapshot_every=30, learn="alternate", swap_every=50),
    "psro": marl.PSRO(response_steps=60, games=8, opponents=(marl.Random(),)),
}


def turns(league, learner=PPO, moves=2, **options):
    """One policy on both sides of a turn-based game."""
    options = {"num_envs": 4, "seed": 1} | options
    return marl.MultiAgentSystem(learner, lambda: Turns(moves), league=league, **options)


def watch(system, steps, every):
    """Train and call ``every(system)`` after each step."""
    system.train(steps=steps, watcher=Watch(every))


# --- who plays, who learns --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", [PPO, DQN], ids=["on policy", "off policy"])
@pytest.mark.parametrize("make", [rps, turns])
def test_learners_learn_from_what_they_played_and_from_nothing_else(make, learner):
    between = "agents" if make is turns else "teams"
    system = make(marl.League(between=between, snapshot_every=40, latest=0.3), learner)
    shares = []

    def look(system):
        for learner, seats, step in zip(
            system.learners, system.league_state.seats.of, system.training.step.teams, strict=True
        ):
            memory = learner.memory
            row = memory.time if hasattr(memory, "time") else memory.head
            acting = memory.acting[row].numpy()
            assert np.array_equal(acting, step.acting & (seats == OWN))
            shares.append((seats == OWN).mean())

    watch(system, 400, look)
    assert 0.5 < np.mean(shares) < 0.8  # 0.3 of all games, and one side of two in the rest: 0.65


def test_sides_swap_from_episode_to_episode():
    system = turns(marl.League(between="agents", latest=0.0, snapshot_every=1000), num_envs=1)
    seen = []

    def look(system):
        if system.training.finished:
            seen.append(system.league_state.seats.of[0][0].tolist().index(OWN))

    watch(system, 120, look)
    assert seen == [(place + 1) % 2 for place in range(len(seen))]
    assert len(seen) > 20


def test_members_play_what_they_are_and_pure_strategies_are_beaten():
    league = marl.League(
        learn="agent_0",
        latest=0.0,
        snapshot_every=None,
        opponents={"agent_1": [marl.Fixed(0)], "agent_0": [marl.Fixed(2)]},
    )
    system = rps(league, marl.ippo(rollout=16, lr=1e-2, network=marl.MLP((16,))), num_envs=16)
    before = system.learners[1].flat.values.clone()
    system.train(steps=4_000)
    assert np.mean(system.history["episode_rewards/agent_0"][-50:]) > 4.5  # paper, five times
    assert torch.equal(system.learners[1].flat.values, before)
    assert system.league_state.members[1].name.startswith("Fixed(strategy=0")


def test_a_mixed_strategy_is_played_as_it_says():
    agents = {"agent_0": marl.Fixed(0), "agent_1": marl.Fixed((0.2, 0.8, 0.0))}
    system = rps(None, agents, num_envs=32)
    system.train(steps=3_200)
    assert np.mean(system.history["episode_rewards/agent_0"]) / 5 == pytest.approx(-0.8, abs=0.05)
    assert system.agent("agent_0").act(np.zeros(7, dtype=np.float32)) == 0
    assert {int(system.agent("agent_1", seed).act(np.zeros(7, dtype=np.float32))) for seed in range(20)} == {0, 1}


def test_a_scripted_player_reads_its_observation_and_keeps_to_the_mask():
    def copycat(obs):  # paper against rock, scissors against paper, ...: what beats the other's last move
        return np.roll(obs[..., 4:7], 1, axis=-1)

    system = rps(None, {"agent_0": marl.Scripted(copycat), "agent_1": marl.Fixed(0)})
    system.train(steps=200)
    assert np.mean(system.history["episode_rewards/agent_0"]) == 4  # nothing to read in the first round, rock on rock
    with pytest.raises(marl.ConfigError, match=r"scores of shape .*4, 1, 3.*got \(4, 1, 2\)"):
        rps(None, {"agent_0": marl.Scripted(lambda obs: obs[..., :2]), "agent_1": marl.Fixed(0)}).train(steps=4)


def test_an_illegal_pure_strategy_gives_way_to_what_is_legal():
    pytest.importorskip("pettingzoo.classic")
    center = marl.MultiAgentSystem(marl.Fixed(4), "classic/tictactoe-v3", num_envs=4, seed=0)
    center.train(steps=200)
    assert len(center.history["episode_rewards"]) > 15


def test_a_snapshot_stands_still_while_its_learner_moves_on():
    system = rps(marl.League(snapshot_every=10_000))
    system.train(steps=4)
    first = system.league_state.pool(0)[0]
    before = {name: value.clone() for name, value in first.net.state_dict().items()}
    start = system.learners[0].flat.values.clone()
    system.train(steps=200)
    assert all(torch.equal(value, before[name]) for name, value in first.net.state_dict().items())
    assert not torch.equal(system.learners[0].flat.values, start)


def test_a_window_forgets_the_oldest_snapshots_and_no_guest():
    system = rps(marl.League(snapshot_every=20, window=3, opponents=[marl.Random()]))
    system.train(steps=400)
    for place in (0, 1):
        assert [member.name for member in system.league_state.pool(place)] == [
            "Random()",
            "step 360",
            "step 380",
            "step 400",
        ]
    assert len(system.league_state.members) <= 8 + 8  # beside the pools at most those that still play
    assert system.history["agent_0/league/pool"][-1] == 4


def test_all_matchmaking_latest_is_plain_self_play():
    plain, league = rps(None), rps(marl.League(matchmaking="latest"))
    for system in (plain, league):
        system.train(steps=200)
    assert plain.history["episode_rewards/agent_0"] == league.history["episode_rewards/agent_0"]
    assert torch.equal(plain.learners[0].flat.values, league.learners[0].flat.values)


def weights(matchmaking, scores):
    league_state = rps(
        marl.League(matchmaking=matchmaking, opponents=[marl.Fixed(0), marl.Fixed(1)], hardness=2)
    ).league_state
    for member, score in zip(league_state.pool(0), scores, strict=True):
        for _ in range(2_000):
            member.record(score)
    return league_state.weights(0)


def test_matchmaking_prefers_whom_it_says():
    assert weights("uniform", (1, 0)) == pytest.approx([0.5, 0.5])
    assert weights("pfsp", (0.5, 0)) == pytest.approx([1 / 5, 4 / 5], abs=0.01)
    assert weights("pfsp_even", (0.5, 1)) == pytest.approx([1, 0], abs=0.03)


def test_a_league_shows_ratings_and_win_rates_while_it_trains(capfd):
    with rps(marl.League(latest=0.0, snapshot_every=None, opponents=[marl.Fixed(2)]), marl.Fixed(0)) as system:
        system.train(steps=200, progress=True)
    *_, line = capfd.readouterr().err.splitlines()
    assert f"rating agent_0 {system.history['agent_0/league/rating'][-1]:.4g}" in line
    assert "win rate agent_0 100%" in line


def test_psro_shows_its_iteration_while_it_trains(capfd):
    with rps(marl.PSRO(response_steps=60, games=4, opponents=(marl.Fixed(0),))) as system:
        system.train(steps=200, progress=True)
    *_, line = capfd.readouterr().err.splitlines()
    assert "iteration 3" in line
    assert f"gain of responses {system.history['league/gain'][-1]:.3g}" in line


def test_win_rates_forget_and_ratings_follow():
    system = rps(marl.League(latest=0.0, snapshot_every=None, opponents=[marl.Fixed(2)]), marl.Fixed(0))
    system.train(steps=200)
    (scissors,) = system.league_state.pool(1)
    assert scissors.beaten > 0.85  # rock wins all five rounds
    assert scissors.games < 100
    assert system.league_state.ratings[0][0] > 1100 > scissors.rating[0]
    assert system.history["agent_0/league/win_rate"][-1] == 1
    uncertain = rps(
        marl.League(latest=0.0, snapshot_every=None, opponents=[marl.Fixed(2)], rating="openskill"), marl.Fixed(0)
    )
    uncertain.train(steps=200)
    mu, sigma = uncertain.league_state.ratings[0]
    assert mu > 25
    assert sigma < 25 / 3


def test_a_winner_of_ones_own_decides():
    league = marl.League(latest=0.0, snapshot_every=None, opponents=[marl.Fixed(0)], winner=lambda episode: "agent_1")
    system = rps(league, marl.Fixed(1))
    system.train(steps=200)
    assert system.league_state.pool(1)[0].beaten < 0.2
    wrong = rps(dataclasses.replace(league, winner=lambda episode: "agent_2"), marl.Fixed(1))
    with pytest.raises(marl.ConfigError, match="did you mean 'agent_1'"):
        wrong.train(steps=200)


@pytest.mark.parametrize("learner", [PPO, DQN], ids=["on policy", "off policy"])
def test_alternating_sides_learn_in_turn(learner):
    system = rps(marl.League(learn="alternate", swap_every=80, snapshot_every=40), learner)
    values = [
        learner.flat.values if hasattr(learner, "flat") else learner.net.head.weight for learner in system.learners
    ]
    moved = []
    for _ in range(4):
        before = [value.detach().clone() for value in values]
        system.train(steps=80)
        moved.append([not torch.equal(value, old) for value, old in zip(values, before, strict=True)])
    assert moved[0] == [True, False]
    assert moved[2] == [True, False]
    assert moved[1][1]
    assert moved[3][1]
    assert moved[1:4:2] == [[False, True]] * 2


def test_an_idle_learner_owes_no_updates_when_its_turn_comes():
    system = rps(marl.League(learn="alternate", swap_every=400, snapshot_every=400), DQN)
    system.train(steps=400)
    system.train(steps=8)
    ratio = system.learners[0].settings.updates_per_step
    assert system.learners[1].memory.seen_steps == 408
    assert system.learners[1].experience.updates == pytest.approx(
        (408 - 16) * ratio, abs=1
    )  # counted as done, never done


def test_a_rollout_in_which_nobody_acted_is_forgotten():
    system = rps(marl.League(learn="agent_1", snapshot_every=40))
    before = system.learners[0].flat.values.clone()
    system.train(steps=200)
    assert torch.equal(system.learners[0].flat.values, before)
    assert not system.learners[0].memory.acting.any()


def test_a_rating_moves_a_curriculum_on():
    stages = Stages(
        [
            Stage({"prey_speed": 1.0}, Rating(at_least=1005, over=1)),
            Stage({"prey_speed": 1.3}),
        ]
    )
    system = marl.MultiAgentSystem(
        {"adversary_*": PPO, "agent_*": PPO},
        "marl/tag-v0",
        num_envs=8,
        env_kwargs={"max_cycles": 5},
        league=marl.League(snapshot_every=100),
        curriculum={"adversary_*": stages},
    )
    system.train(steps=1_200)
    assert max(system.history["adversary/curriculum/stage"]) == 1


def outcomes_of(system, steps):
    """What the curriculum of agent_0 learns from a tag of two."""
    taken = []
    scheduler = system.training.parts["curriculum"].curriculum_state.schedulers["agent_0"]
    learn = scheduler.learn
    scheduler.learn = lambda outcomes, clock: taken.extend(outcomes) or learn(outcomes, clock)
    system.train(steps=steps)
    return taken


def test_a_win_against_the_other_learner_is_a_win():
    """Of each side, not half of one: a WinRate waits for it."""
    rule = marl.curriculum.WinRate(at_least=1.0, over=10)
    wins = Stages([Stage({"max_cycles": 5}, rule), Stage({"max_cycles": 5})])
    agents = {"agent_0": marl.Fixed(0), "agent_1": marl.Fixed(2)}
    system = rps(marl.League(latest=1.0, snapshot_every=1_000), agents, curriculum={"agent_0": wins})
    assert {outcome.values["win"] for outcome in outcomes_of(system, 200)} == {1.0}
    assert system.history["agent_0/curriculum/stage"][-1] == 1


def test_a_curriculum_learns_nothing_from_what_a_member_did_in_its_team_s_place():
    tasks = DomainRandomization({"max_cycles": 5})
    league = marl.League(latest=0.0, snapshot_every=None, opponents=[marl.Fixed(0)])
    system = rps(league, {"agent_0": marl.Fixed(1), "agent_1": marl.Fixed(2)}, curriculum={"agent_0": tasks})
    taken = outcomes_of(system, 400)
    assert {outcome.values["return"] for outcome in taken} == {5.0}  # paper against rock; rock lost to scissors unseen
    assert 0.3 < len(taken) / system.episodes < 0.7


def test_a_bonus_for_novelty_counts_what_the_learner_saw_and_no_member():
    league = marl.League(learn="agent_0", latest=0.0, snapshot_every=None, opponents=[marl.Fixed(0)])
    system = rps(league, shaping=[marl.shaping.CountBonus(cell=1.0)])
    system.train(steps=80)
    counts = {name: int(hooks[0].counts.sum()) for name, hooks in system.training.parts["shaping"].shaper.hooks.items()}
    assert counts == {"agent_0": 80, "agent_1": 0}


@pytest.mark.parametrize("other", [LEAGUES["psro"], marl.League(snapshot_every=30)])
def test_a_league_that_is_not_the_saved_one_is_refused_in_one_line(other, tmp_path):
    system = rps(LEAGUES["uniform"])
    system.train(steps=60)
    system.save(tmp_path / "saved")
    with pytest.raises(marl.CheckpointError, match=r"the saved league does not fit .*(PSRO|League)\("):
        marl.MultiAgentSystem.load(tmp_path / "saved", league=other).train(steps=4)


def test_a_rating_without_a_league_is_refused_in_one_line():
    stages = Stages([Stage({"width": 3.0}, Rating()), Stage({"width": 8.0})])
    env_kwargs = {"width": 8, "height": 8, "max_cycles": 5}
    system = marl.MultiAgentSystem(PPO, "marl/gridworld-v0", num_envs=4, curriculum=stages, env_kwargs=env_kwargs)
    with pytest.raises(marl.ConfigError, match="ratings are of a league"):
        system.train(steps=100)


# --- PSRO -------------------------------------------------------------------------------------------------------------


def test_psro_solves_rock_paper_scissors_where_the_newest_response_is_always_beaten():
    with marl.MultiAgentSystem(None, "rock_paper_scissors", seed=0) as system:
        system.train(steps=5_000)
        assert throws_exploitability(system) < 1e-2
        for team in ("agent_0", "agent_1"):
            assert sum(chance for chance, _ in system.league_state.strategy(team)) == pytest.approx(1)
        assert system.history["league/gain"][-1] < 1e-2
        rows = system.league_state.payoffs()[0]
        assert np.array_equal(rows, -system.league_state.payoffs()[1])
        assert (rows.max(axis=0) == 1).all()  # every member is beaten by another


def test_psro_with_one_policy_for_both_sides_has_an_antisymmetric_table():
    system = turns(marl.PSRO(between="agents", response_steps=100, games=20), moves=2)
    system.train(steps=300)
    first, second = system.league_state.payoffs()
    assert first.shape == (4, 4)
    assert np.array_equal(first, -first.T)
    assert np.array_equal(first, second.T)
    assert not first.any()  # who begins wins; seen from both sides nobody does


@pytest.mark.parametrize(("solver", "said"), [("nash", 1), ("prd", 0)])
def test_nash_says_once_that_a_game_is_not_zero_sum(solver, said, caplog):
    env_kwargs = {"payoff": [[[3, 0], [5, 1]], [[3, 5], [0, 1]]]}  # the prisoners' dilemma
    league = marl.PSRO(response_steps=8, games=2, meta_solver=solver, opponents=(marl.Fixed(0), marl.Fixed(1)))
    agents = {"agent_0": PPO, "agent_1": PPO}
    with marl.MultiAgentSystem(agents, "marl/matrix_game-v0", num_envs=4, env_kwargs=env_kwargs, league=league) as one:
        one.train(steps=32)
    assert sum("do not add up to a constant" in record.message for record in caplog.records) == said
    with rps(marl.PSRO(response_steps=8, games=2)) as zero_sum:
        caplog.clear()
        zero_sum.train(steps=16)
    assert not caplog.records


def test_every_best_response_begins_anew_unless_told_otherwise():
    moved = {}
    for fresh in (True, False):
        system = rps(marl.PSRO(response_steps=80, games=4, fresh=fresh))
        system.train(steps=80)
        learner = system.learners[0]
        system.train(steps=4)
        moved[fresh] = system.learners[0] is not learner
        assert list(system.league_state.learners) == system.learners
    assert moved == {True: True, False: False}


# --- saving and resuming ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("learner", [PPO, DQN, GRU], ids=["PPO", "DQN", "GRU"])
@pytest.mark.parametrize("name", LEAGUES)
def test_resuming_inside_a_league_is_never_having_stopped(name, learner, tmp_path):
    unbroken = rps(LEAGUES[name], learner)
    unbroken.train(steps=116)
    unbroken.save(tmp_path / "saved")
    unbroken.train(steps=200)
    resumed = marl.MultiAgentSystem.load(tmp_path / "saved")
    resumed.train(steps=200)
    assert resumed.league_state.recent == unbroken.league_state.recent
    assert_equal_systems(unbroken, resumed)


@pytest.mark.parametrize("learner", [PPO, GRU], ids=["PPO", "GRU"])
def test_resuming_inside_a_turn_based_league_is_never_having_stopped(learner, tmp_path):
    league = marl.League(between="agents", snapshot_every=30)
    unbroken = turns(league, learner, moves=3)
    unbroken.train(steps=116)
    unbroken.save(tmp_path / "saved")
    unbroken.train(steps=120)
    resumed = marl.MultiAgentSystem.load(tmp_path / "saved", env=lambda: Turns(3))
    resumed.train(steps=120)
    assert_equal_systems(unbroken, resumed)


def test_saving_before_training_goes_on_keeps_the_league(tmp_path):
    system = rps(LEAGUES["uniform"])
    system.train(steps=100)
    system.save(tmp_path / "one")
    marl.MultiAgentSystem.load(tmp_path / "one").save(tmp_path / "two")
    again = marl.MultiAgentSystem.load(tmp_path / "two")
    assert [member.name for member in again.league_state.pool(0)] == [
        member.name for member in system.league_state.pool(0)
    ]
    assert again.league_state.ratings == system.league_state.ratings
    again.train(steps=40)
    system.train(steps=40)
    assert_equal_systems(system, again)


def test_checkpoints_and_systems_are_opponents(tmp_path):
    other = rps(None, seed=5)
    other.train(steps=40)
    path = str(other.save(tmp_path / "other"))
    system = rps(marl.League(latest=0.0, snapshot_every=None, opponents=[path, other]))
    system.train(steps=40)
    loaded, live = system.league_state.pool(1)
    assert loaded.name == path
    for name, value in live.net.state_dict().items():
        assert torch.equal(value, loaded.net.state_dict()[name])
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)
    other.save(tmp_path / "run" / "checkpoints" / "last")  # as the link in a run folder
    run = rps(marl.League(latest=0.0, snapshot_every=None, opponents=[str(tmp_path / "run")])).league_state.pool(1)[0]
    assert torch.equal(run.net.state_dict()["head.weight"], loaded.net.state_dict()["head.weight"])
    system = rps(marl.League(latest=0.0, snapshot_every=None, opponents=[path]))
    system.train(steps=40)
    system.save(tmp_path / "mine")
    with pytest.raises(marl.CheckpointError, match="it would load the policies in"):
        marl.MultiAgentSystem.load(tmp_path / "mine")
    resumed = marl.MultiAgentSystem.load(tmp_path / "mine", trust=True)
    for one in (system, resumed):
        one.train(steps=40)
    assert_equal_systems(system, resumed)


def test_a_league_of_ones_own_code_has_to_be_given_again(tmp_path):
    league = marl.League(snapshot_every=40, winner=lambda episode: None)
    system = rps(league)
    system.train(steps=40)
    system.save(tmp_path / "saved")
    with pytest.raises(marl.CheckpointError, match="its league holds code of yours"):
        marl.MultiAgentSystem.load(tmp_path / "saved").train(steps=4)
    marl.MultiAgentSystem.load(tmp_path / "saved", league=league).train(steps=4)


def test_evaluation_changes_nothing_in_a_league():
    plain, looked = (rps(LEAGUES["uniform"]) for _ in range(2))
    for system in (plain, looked):
        system.train(steps=100)
        if system is looked:
            system.evaluate(4)
        system.train(steps=100)
    assert_equal_systems(plain, looked)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: rps(marl.League(snapshot_every=None)), "the pool of 'agent_0' would be empty"),
        (
            lambda: rps(marl.League(snapshot_every=None, opponents={"agent_0": [marl.Random()]})),
            "the pool of 'agent_1' would be empty",
        ),
        (lambda: marl.MultiAgentSystem(PPO, Team, league=marl.League()), "has one team"),
        (lambda: marl.MultiAgentSystem(PPO, lambda: Team((3,), (2,)), league=marl.League()), "has one agent"),
        (lambda: marl.MultiAgentSystem(PPO, Constant, league=marl.PSRO()), "has one agent"),
        (lambda: rps(marl.League(between="agents")), "leave it out"),
        (lambda: marl.League(matchmaking="unifrom"), "did you mean 'uniform'"),
        (lambda: marl.League(latest=1.5), "at most 1"),
        (lambda: marl.League(window=0), "at least 1"),
        (lambda: rps(marl.League(learn="agent_2")), "did you mean 'agent_1'"),
        (lambda: rps(marl.League(learn="alternate")), "swap_every"),
        (lambda: rps(marl.League(swap_every=10)), "swap_every"),
        (lambda: turns(marl.League(between="agents", learn="alternate", swap_every=10)), "share one learner"),
        (lambda: turns(marl.League(between="agents", learn="player_0")), "set latest=0"),
        (lambda: turns(marl.League(between="agents"), marl.iql(credit=marl.VDN())), "cannot share their reward"),
        (lambda: rps(marl.League(opponents=["no/such/checkpoint"])), "no/such/checkpoint does not exist"),
        (lambda: rps(marl.League(opponents=[3])), "opponents are learners such as"),
        (lambda: rps(marl.League(opponents=[marl.Fixed(3)])), "expected an action below 3"),
        (lambda: rps(marl.League(opponents=[marl.Fixed((0.5, 0.5))])), "expected 3 probabilities"),
        (lambda: rps(marl.League(opponents={"agent_3": [marl.Random()]})), "agent_3"),
        (lambda: marl.Fixed((0.5, 0.6)), "add up to 1"),
        (lambda: marl.Fixed(-1), "add up to 1"),
        (lambda: marl.PSRO(meta_solver="nahs"), "meta_solver"),
        (lambda: rps("uniform"), "expected marl.League"),
        (
            lambda: marl.Scenario(name="x", env=Team, agents=PPO, steps=99, league=marl.PSRO(response_steps=100)),
            "PSRO.response_steps: the first best response is learnt after 100 steps, and training ends after 99",
        ),
        (
            lambda: marl.Scenario(
                name="x", env=Team, agents=PPO, steps=99, league=marl.League(learn="alternate", swap_every=100)
            ),
            "League.swap_every: the second side would learn from step 100 on",
        ),
        (lambda: marl.Scenario(name="x", env=Team, agents=PPO, league=3), "Scenario 'x': league: expected"),
        (lambda: rps(None).league_state, "this system has no league"),
        (
            lambda: marl.MultiAgentSystem({"agent_0": PPO, "agent_1": PPO, "agent_2": PPO}, Team, league=marl.PSRO()),
            "expected a game of two sides",
        ),
    ],
)
def test_leagues_without_meaning_are_refused_in_one_line(make, message):
    with pytest.raises(marl.MarlError) as caught:
        make()
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_opponent_for_another_game_is_refused():
    other = marl.MultiAgentSystem({"agent_0": PPO, "agent_1": PPO}, lambda: Team((3, 3), (2, 2)))
    with pytest.raises(marl.ConfigError, match="with the same spaces"):
        rps(marl.League(opponents=[other]))
