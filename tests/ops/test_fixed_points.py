"""On small MDPs with known transition matrices, the operators' fixed points are the linear-algebra answers."""

import pytest
import torch

from marl import ops

STATES, ACTIONS, DISCOUNT = 4, 3, 0.8
SEEDS = range(20)
F64 = torch.float64


class MDP:
    """A random MDP with a target policy pi and a behavior policy mu: transitions (S, A, S), rewards (S, A)."""

    def __init__(self, seed):
        g = torch.Generator().manual_seed(seed)
        self.generator = g
        self.transition = torch.rand(STATES, ACTIONS, STATES, generator=g, dtype=F64).softmax(-1)
        self.transition = (8 * torch.rand(STATES, ACTIONS, STATES, generator=g, dtype=F64)).softmax(-1)
        self.reward = torch.randn(STATES, ACTIONS, generator=g, dtype=F64)
        self.pi = (2 * torch.randn(STATES, ACTIONS, generator=g, dtype=F64)).softmax(-1)
        self.mu = (2 * torch.randn(STATES, ACTIONS, generator=g, dtype=F64)).softmax(-1)

    def v(self, policy):
        p = torch.einsum("sa,sat->st", policy, self.transition)
        r = (policy * self.reward).sum(-1)
        return torch.linalg.solve(torch.eye(STATES, dtype=F64) - DISCOUNT * p, r)

    def q(self, policy):
        return self.reward + DISCOUNT * self.transition @ self.v(policy)

    def trajectories(self, policy, length):
        """All paths s_0 a_0 s_1 ... s_length with their probabilities given s_0 = each state: states (length+1, n),
        ..."""
        states, weights = torch.arange(STATES)[None], torch.ones(STATES, dtype=F64)
        actions = torch.zeros(0, STATES, dtype=torch.long)
        for _ in range(length):
            n = states.shape[1]
            here = states[-1]
            p = policy[here][:, :, None] * self.transition[here]  # (n, A, S)
            weights = (weights[:, None, None] * p).flatten()
            a = torch.arange(ACTIONS)[:, None].expand(n, ACTIONS, STATES).flatten()
            s = torch.arange(STATES)[None].expand(ACTIONS, STATES).expand(n, ACTIONS, STATES).flatten()
            repeat = ACTIONS * STATES
            states = torch.cat([states.repeat_interleave(repeat, 1), s[None]])
            actions = torch.cat([actions.repeat_interleave(repeat, 1), a[None]])
        return states, actions, weights


def iterate(operator, x, steps=200):
    """Apply until it stands still; all operators here contract."""
    for _ in range(steps):
        y = operator(x)
        if (y - x).abs().max() < 1e-12:
            return y
        x = y
    return x


def by_first_state(states, weights, outcome):
    return torch.zeros(STATES, dtype=F64).index_add(0, states[0], weights * outcome)


@pytest.mark.parametrize("seed", SEEDS)
def test_state_value_operators_have_the_solved_fixed_point(seed):
    m = MDP(seed)
    states, actions, weights = m.trajectories(m.pi, 2)
    r = m.reward[states[:-1], actions]
    d = torch.full_like(r, DISCOUNT)
    answer = m.v(m.pi)

    def td_lambda(v):
        return v + by_first_state(states, weights, ops.td_lambda(v[states[:-1]], r, d, v[states[1:]], 0.7)[0])

    def n_step(v):
        return by_first_state(states, weights, ops.n_step_bootstrapped_returns(r, d, v[states[1:]], 2)[0])

    for operator in (td_lambda, n_step):
        found = iterate(operator, torch.zeros(STATES, dtype=F64))
        assert (found - answer).abs().max() < 1e-6

    states, actions, weights = m.trajectories(m.mu, 2)
    r = m.reward[states[:-1], actions]
    rho = (m.pi / m.mu)[states[:-1], actions]
    for bound in (0.5, 1.0, float("inf")):
        clipped = torch.minimum(bound * m.mu, m.pi)
        answer = m.v(clipped / clipped.sum(-1, keepdim=True))

        def vtrace(v, bound=bound):
            error = ops.vtrace(v[states[:-1]], v[states[1:]], r, d, rho, clip_rho_threshold=bound)
            return v + by_first_state(states, weights, error[0])

        found = iterate(vtrace, torch.zeros(STATES, dtype=F64), 3000)
        assert (found - answer).abs().max() < 1e-6


@pytest.mark.parametrize("seed", SEEDS)
def test_action_value_operators_have_the_solved_fixed_point(seed):
    m = MDP(seed)
    states, actions, weights = m.trajectories(m.mu, 2)
    # Condition on the first action: its behavior probability leaves the weight.
    weights = weights / m.mu[states[0], actions[0]]
    r = m.reward[states[:-1], actions]
    d = torch.full_like(r, DISCOUNT)
    later = torch.cat([actions[1:], actions[-1:]])  # the last is not used
    pi_t = m.pi[states[1:]]
    mu_t = m.mu[states[1:], later]
    pair = states[0] * ACTIONS + actions[0]
    answer = m.q(m.pi)

    def expected(outcome):
        return torch.zeros(STATES * ACTIONS, dtype=F64).index_add(0, pair, weights * outcome).view(STATES, ACTIONS)

    def retrace(q):
        error = ops.retrace(q[states[:-1]], q[states[1:]], actions, later, r, d, pi_t, mu_t, 0.9, eps=0.0)
        return q + expected(error[0])

    def tree_backup(q):
        c_t = pi_t.gather(-1, later[..., None])[..., 0]
        return expected(ops.general_off_policy_returns_from_action_values(q[states[1:]], later, r, d, c_t, pi_t)[0])

    for operator in (retrace, tree_backup):
        found = iterate(operator, torch.zeros(STATES, ACTIONS, dtype=F64))
        assert (found - answer).abs().max() < 1e-6


@pytest.mark.parametrize("seed", range(5))
def test_sampled_estimates_lie_within_four_standard_errors(seed):
    m = MDP(seed)
    count, length = 20_000, 3
    state = torch.zeros(count, dtype=torch.long)
    states, actions = [state], []
    for _ in range(length):
        action = torch.multinomial(m.mu[state], 1, generator=m.generator)[:, 0]
        state = torch.multinomial(m.transition[state, action], 1, generator=m.generator)[:, 0]
        actions.append(action)
        states.append(state)
    s, a = torch.stack(states), torch.stack(actions)
    r, rho = m.reward[s[:-1], a], (m.pi / m.mu)[s[:-1], a]
    d = torch.full_like(r, DISCOUNT)
    v, q = m.v(m.pi), m.q(m.pi)
    later = torch.cat([a[1:], a[-1:]])
    estimates = {
        "vtrace": ops.vtrace(v[s[:-1]], v[s[1:]], r, d, rho, clip_rho_threshold=float("inf"))[0],
        "importance": ops.importance_corrected_td_errors(r, d, rho, 0.9, v[s])[0],
        "retrace": ops.retrace(q[s[:-1]], q[s[1:]], a, later, r, d, m.pi[s[1:]], m.mu[s[1:], later], 0.9, eps=0.0)[0],
    }
    for name, errors in estimates.items():  # at the fixed point every expected error is 0
        standard_error = errors.std() / count**0.5
        assert errors.mean().abs() < 4 * standard_error, name


@pytest.mark.parametrize("length", [1, 3, 7])
def test_truncation_bootstraps_and_termination_does_not(length):
    gamma = 0.9
    r = torch.ones(length, dtype=F64)
    cut = torch.full((length,), gamma, dtype=F64)
    ended = cut.clone()
    ended[-1] = 0.0
    finite = sum(gamma**k for k in range(length))
    v = torch.zeros((), dtype=F64)
    for _ in range(600):  # the value of the one looping state, cut every `length` steps
        v = ops.discounted_returns(r, cut, v)[0]
    assert abs(v.item() - 1 / (1 - gamma)) < 1e-6
    assert abs(ops.discounted_returns(r, ended, v)[0].item() - finite) < 1e-9
    assert abs(ops.lambda_returns(r, ended, v.expand(length), 1.0)[0].item() - finite) < 1e-9

    column, no = r[:, None], torch.zeros(length, 1, dtype=torch.bool)
    last = no.clone()
    last[-1] = True
    values = torch.zeros(length, 1, dtype=F64)
    rest = (column * 0 + v, values[0], ~no[0], gamma, 1.0)
    truncated, _ = ops.idle_generalized_advantage_estimation(column, values, ~no, no, last, *rest)
    terminated, _ = ops.idle_generalized_advantage_estimation(column, values, ~no, last, no, *rest)
    assert abs(truncated[0].item() - 1 / (1 - gamma)) < 1e-9
    assert abs(terminated[0].item() - finite) < 1e-9
