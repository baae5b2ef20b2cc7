"""The idle-row advantage function and the masked statistics."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marl import ops


def gae(reward, value, terminated, truncated, final_value, last_value, discount, lambda_):
    """Ordinary GAE of one trajectory after the other, in floats: the textbook recursion."""
    advantage, out, following = 0.0, [0.0] * len(reward), last_value
    for t in reversed(range(len(reward))):
        if terminated[t] or truncated[t]:
            advantage, following = 0.0, 0.0 if terminated[t] else final_value[t]
        advantage = reward[t] + discount * following - value[t] + discount * lambda_ * advantage
        out[t], following = advantage, value[t]
    return out


def draw(seed, rows, agents, acting=0.6, ends=0.15):
    g = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    def coin(chance, *shape):
        return torch.rand(*shape, generator=g) < chance

    return dict(
        reward=normal(rows, agents),
        value=normal(rows, agents),
        acting=coin(acting, rows, agents),
        terminated=coin(ends, rows, agents),
        truncated=coin(ends, rows, agents),
        final_value=normal(rows, agents),
        last_value=normal(agents),
        last_acting=coin(0.5, agents),
        discount=0.97,
        lambda_=0.9,
    )


def trajectories(x, agent):
    """The agent's own turns, one trajectory at a time: their rows, their rewards with those in between, what the last
    one bootstraps from. A turn that waits for its outcome is left out."""
    found, turns = [], []  # turns: [row, reward so far]

    def close(following, known):
        done = turns if known else turns[:-1]
        if not known and turns:
            following = float(x["value"][turns[-1][0], agent])
        if done:
            found.append(([t for t, _ in done], [r for _, r in done], following))
        turns.clear()

    for t in range(x["reward"].shape[0]):
        if x["acting"][t, agent]:
            turns.append([t, 0.0])
        if turns:
            turns[-1][1] += float(x["reward"][t, agent])
        if x["terminated"][t, agent]:
            close(0.0, True)
        elif x["truncated"][t, agent]:
            close(float(x["final_value"][t, agent]), True)
    close(float(x["last_value"][agent]), bool(x["last_acting"][agent]))
    return found


def compacted(x, agent):
    """GAE on the agent's own turns, and which rows have it."""
    rows = x["reward"].shape[0]
    result, complete = [0.0] * rows, [False] * rows
    for turns, reward, following in trajectories(x, agent):
        value, no = x["value"][turns, agent].tolist(), [False] * len(turns)
        advantage = gae(reward, value, no, no, value, following, x["discount"], x["lambda_"])
        for t, a in zip(turns, advantage, strict=True):
            result[t], complete[t] = a, True
    return result, complete


def vtrace(reward, value, rho, following, discount, lambda_, largest, longest):
    """V-trace errors and advantages of one trajectory, in floats: the paper's recursion."""
    error, errors, advantages = 0.0, [0.0] * len(reward), [0.0] * len(reward)
    for k in reversed(range(len(reward))):
        delta = reward[k] + discount * following - value[k]
        advantages[k] = delta + discount * lambda_ * error
        error = min(largest, rho[k]) * delta + discount * lambda_ * min(longest, rho[k]) * error
        errors[k], following = error, value[k]
    return errors, advantages


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.2, 0.6, 0.95, 1.0]),
    st.sampled_from([0.0, 0.1, 0.5]),
)
def test_equals_gae_on_each_agents_own_compacted_trajectory(seed, rows, acting, ends):
    x = draw(seed, rows, 4, acting, ends)
    advantage, complete = ops.idle_generalized_advantage_estimation(**x)
    for agent in range(4):
        expected, known = compacted(x, agent)
        assert complete[:, agent].tolist() == known
        torch.testing.assert_close(advantage[:, agent], torch.tensor(expected, dtype=torch.float64))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0.0, 0.1, 0.5]))
def test_equals_ordinary_gae_when_every_row_is_active(seed, rows, ends):
    x = draw(seed, rows, 3, acting=2.0, ends=ends)
    x["last_acting"] = torch.ones(3, dtype=torch.bool)
    advantage, complete = ops.idle_generalized_advantage_estimation(**x)
    assert complete.all()
    for agent in range(3):
        column = [x[k][:, agent].tolist() for k in ("reward", "value", "terminated", "truncated", "final_value")]
        expected = gae(*column, float(x["last_value"][agent]), x["discount"], x["lambda_"])
        torch.testing.assert_close(advantage[:, agent], torch.tensor(expected, dtype=torch.float64))
    if not (x["terminated"] | x["truncated"]).any():
        values = torch.cat([x["value"], x["last_value"][None]])
        discount = torch.full_like(x["reward"], x["discount"])
        ordinary = ops.truncated_generalized_advantage_estimation(x["reward"], discount, x["lambda_"], values)
        torch.testing.assert_close(advantage, ordinary)


def test_hand_computed_idle_rows():
    # One agent acts on rows 0 and 2, is idle on 1 and 3, and is cut after row 3; discount 0.5, lambda 0.5.
    # Turn 2: R = 4 + 8, target 12 + 0.5 * 10 = 17, advantage 17 - 3 = 14.
    # Turn 0: R = 1 + 2, delta = 3 + 0.5 * 3 - 2 = 2.5, advantage 2.5 + 0.25 * 14 = 6.
    column = torch.tensor([[1.0], [2.0], [4.0], [8.0]])
    advantage, complete = ops.idle_generalized_advantage_estimation(
        column,
        torch.tensor([[2.0], [torch.nan], [3.0], [torch.nan]]),
        torch.tensor([[True], [False], [True], [False]]),
        torch.zeros(4, 1, dtype=torch.bool),
        torch.tensor([[False], [False], [False], [True]]),
        torch.tensor([[torch.nan], [torch.nan], [torch.nan], [10.0]]),
        torch.tensor([torch.nan]),
        torch.tensor([False]),
        0.5,
        0.5,
    )
    assert advantage[:, 0].tolist() == [6.0, 0.0, 14.0, 0.0]
    assert complete[:, 0].tolist() == [True, False, True, False]


def test_a_turn_without_outcome_is_not_complete_and_lends_its_value():
    false = torch.zeros(2, 1, dtype=torch.bool)
    advantage, complete = ops.idle_generalized_advantage_estimation(
        torch.tensor([[1.0], [5.0]]), torch.tensor([[2.0], [4.0]]), ~false, false, false,
        torch.zeros(2, 1), torch.zeros(1), torch.tensor([False]), 0.5, 0.5,
    )  # fmt: skip
    assert complete[:, 0].tolist() == [True, False]
    assert advantage[:, 0].tolist() == [1.0 + 0.5 * 4 - 2, 0.0]


def test_termination_wins_over_truncation_and_nothing_is_tracked():
    x = draw(0, 1, 1, acting=2.0, ends=2.0)
    x["value"].requires_grad_()
    advantage, _ = ops.idle_generalized_advantage_estimation(**x)
    torch.testing.assert_close(advantage, x["reward"] - x["value"].detach())
    assert not advantage.requires_grad


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0.0, 0.3, 1.0]), st.sampled_from([0.0, 0.15, 0.5]))
def test_the_compiled_pass_over_rows_that_lie_among_others_equals_torch(seed, rows, acting, ends):
    x = draw(seed, rows, 6, acting, ends)
    apart = {k: v.float() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in x.items()}
    among = {k: v[..., 2:5] if isinstance(v, torch.Tensor) else v for k, v in apart.items()}
    wanted, known = ops.idle_generalized_advantage_estimation(**x)
    advantage, complete = ops.idle_generalized_advantage_estimation(**among)
    assert torch.equal(complete, known[:, 2:5])
    torch.testing.assert_close(advantage, wanted[:, 2:5].float())


def test_extra_batch_axes_are_independent():
    x = draw(3, 9, 6)
    whole, _ = ops.idle_generalized_advantage_estimation(**x)
    folded = {k: v.unflatten(-1, (2, 3)) if isinstance(v, torch.Tensor) else v for k, v in x.items()}
    again, _ = ops.idle_generalized_advantage_estimation(**folded)
    assert torch.equal(whole, again.flatten(1))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(1, 12),
    st.sampled_from([0.0, 0.2, 0.6, 0.95, 1.0]),
    st.sampled_from([0.0, 0.1, 0.5]),
    st.sampled_from([(1.0, 1.0), (2.0, 1.0), (1.5, 0.5)]),
)
def test_vtrace_equals_the_papers_on_each_agents_own_compacted_trajectory(seed, rows, acting, ends, clips):
    x = draw(seed, rows, 4, acting, ends)
    rho = torch.rand(rows, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3
    errors, advantage, complete = ops.idle_vtrace(
        **x, rho=torch.where(x["acting"], rho, torch.nan), clip_rho_threshold=clips[0], clip_c_threshold=clips[1]
    )
    wanted = torch.zeros(2, rows, 4, dtype=torch.float64)
    for agent in range(4):
        for turns, reward, following in trajectories(x, agent):
            value = x["value"][turns, agent].tolist()
            found = vtrace(reward, value, rho[turns, agent].tolist(), following, x["discount"], x["lambda_"], *clips)
            wanted[:, turns, agent] = torch.tensor(found, dtype=torch.float64)
    torch.testing.assert_close(errors, wanted[0])
    torch.testing.assert_close(advantage, wanted[1])
    assert torch.equal(complete, ops.idle_generalized_advantage_estimation(**x)[1])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12), st.sampled_from([0.2, 0.6, 1.0]), st.sampled_from([0.0, 0.1, 0.5]))
def test_vtrace_of_the_policy_that_played_is_gae(seed, rows, acting, ends):
    x = draw(seed, rows, 4, acting, ends)
    errors, advantage, complete = ops.idle_vtrace(**x, rho=torch.ones_like(x["reward"]))
    wanted, known = ops.idle_generalized_advantage_estimation(**x)
    torch.testing.assert_close(errors, wanted)
    torch.testing.assert_close(advantage, wanted)
    assert torch.equal(complete, known)


def test_vtrace_where_every_row_is_a_turn_is_the_ordinary_one():
    x = draw(4, 9, 3, acting=2.0, ends=0.0)
    x["last_acting"] = torch.ones(3, dtype=torch.bool)
    rho = torch.rand(9, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64) * 3
    errors, advantage, _ = ops.idle_vtrace(**x, rho=rho, clip_rho_threshold=2.0)
    values = torch.cat([x["value"], x["last_value"][None]])
    wanted = ops.vtrace_td_error_and_advantage(
        values[:-1], values[1:], x["reward"], torch.full_like(rho, x["discount"]), rho, x["lambda_"], 2.0
    )
    torch.testing.assert_close(errors, wanted.errors)
    torch.testing.assert_close(advantage, wanted.q_estimate - x["value"])


def test_hand_computed_vtrace_with_idle_rows():
    # The rows of the hand-computed GAE above, played with ratios 0.5 on turn 0 and 4 on turn 2; largest ratio 2, c 1.
    # Turn 2: delta and advantage 14, error 2 * 14 = 28.
    # Turn 0: delta 2.5, advantage 2.5 + 0.25 * 28 = 9.5, error 0.5 * 2.5 + 0.25 * 0.5 * 28 = 4.75.
    # With ratio 4 on turn 0 as well: error 2 * 2.5 + 0.25 * 1 * 28 = 12.
    column = torch.tensor([[1.0], [2.0], [4.0], [8.0]]).expand(4, 2)
    pair = torch.ones(4, 2, dtype=torch.bool)
    turns = torch.tensor([[True], [False], [True], [False]]) & pair
    errors, advantage, complete = ops.idle_vtrace(
        column,
        torch.tensor([[2.0], [torch.nan], [3.0], [torch.nan]]).expand(4, 2),
        turns,
        ~pair,
        torch.tensor([[False], [False], [False], [True]]) & pair,
        torch.full((4, 2), 10.0),
        torch.full((2,), torch.nan),
        ~pair[0],
        torch.tensor([[0.5, 4.0], [torch.nan, torch.nan], [4.0, 4.0], [torch.nan, torch.nan]]),
        0.5,
        0.5,
        2.0,
        1.0,
    )
    assert errors.tolist() == [[4.75, 12.0], [0.0, 0.0], [28.0, 28.0], [0.0, 0.0]]
    assert advantage.tolist() == [[9.5, 9.5], [0.0, 0.0], [14.0, 14.0], [0.0, 0.0]]
    assert torch.equal(complete, turns)


def test_masked_mean_by_hand():
    x = torch.tensor([[1.0, torch.nan], [3.0, 8.0]], requires_grad=True)
    mask = torch.tensor([[True, False], [True, True]])
    assert ops.masked_mean(x, mask).item() == 4.0
    assert ops.masked_mean(x, mask, dim=0).tolist() == [2.0, 8.0]
    assert ops.masked_mean(x, torch.zeros_like(mask)).item() == 0.0
    ops.masked_mean(x, mask).backward()
    torch.testing.assert_close(x.grad, torch.tensor([[1 / 3, 0.0], [1 / 3, 1 / 3]]))


def test_masked_normalize_by_hand():
    # Agents 0 and 2 share set 0: entries 1, 3, 5 have mean 3 and population variance 8/3.
    x = torch.tensor([[1.0, 7.0, 5.0], [3.0, 7.0, torch.nan]], dtype=torch.float64)
    mask = torch.tensor([[True, True, True], [True, True, False]])
    y = ops.masked_normalize(x, mask, torch.tensor([0, 1, 0]), 3)
    s = (8 / 3) ** 0.5
    torch.testing.assert_close(y, torch.tensor([[-2 / s, 0.0, 2 / s], [0.0, 0.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("fill", [0.1, 1e6, -3.3])
def test_equal_entries_and_lonely_entries_normalize_to_zero(fill):
    x = torch.full((50, 3), fill)
    assert torch.equal(
        ops.masked_normalize(x, torch.ones_like(x).bool(), torch.tensor([0, 0, 1]), 2), torch.zeros(50, 3)
    )
    lonely = torch.zeros(50, 3, dtype=torch.bool)
    lonely[7, 1] = True
    assert torch.equal(ops.masked_normalize(x, lonely, torch.tensor([0, 0, 1]), 2), torch.zeros(50, 3))


def test_normalizing_per_set_equals_normalizing_each_set_alone():
    g = torch.Generator().manual_seed(1)
    x, mask = torch.randn(8, 5, generator=g), torch.rand(8, 5, generator=g) < 0.7
    owner = torch.tensor([0, 2, 0, 1, 2])
    y = ops.masked_normalize(x, mask, owner, 3)
    for p in range(3):
        chosen = mask & (owner == p)
        values = x[chosen]
        torch.testing.assert_close(y[chosen], (values - values.mean()) / (values.std(correction=0) + 1e-8))


def test_the_compiled_normalization_equals_torch_and_leaves_gradients_to_it():
    g = torch.Generator().manual_seed(2)
    x, mask = torch.randn(3, 7, 5, generator=g) * 3 + 100, torch.rand(3, 7, 5, generator=g) < 0.7
    x[~mask] = torch.inf
    owner = torch.tensor([0, 2, 0, 1, 2])
    wanted = ops.masked_normalize(x.double(), mask, owner, 4)
    found = ops.masked_normalize(x, mask, owner, 4)
    torch.testing.assert_close(found, wanted.float())
    assert not found[~mask].any()
    with_gradient = ops.masked_normalize(x.clone().requires_grad_(), mask, owner, 4)
    assert with_gradient.requires_grad
    torch.testing.assert_close(with_gradient.detach(), found, rtol=1e-4, atol=1e-4)


def test_numbers_whose_squares_overflow_are_normalized():
    x = torch.tensor([[1e30], [3e30]])
    y = ops.masked_normalize(x, torch.ones_like(x).bool(), torch.tensor([0]), 1)
    torch.testing.assert_close(y, torch.tensor([[-1.0], [1.0]]))
