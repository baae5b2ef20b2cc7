"""Hand-computed numbers, no JAX: at least one line per public function. A test at the end sees that none is missing."""

import math
from pathlib import Path

import pytest
import torch

from marl import ops

LN2 = math.log(2.0)


def f(*x):
    return torch.tensor(x[0] if len(x) == 1 else x, dtype=torch.float64)


def near(found, expected, tolerance=1e-9):
    expected = torch.as_tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(found.double(), expected, rtol=tolerance, atol=tolerance)


Q0, Q1 = f([[1.0, 2.0], [3.0, 4.0]]), f([[0.0, 1.0], [5.0, 2.0]])  # (2, A) source and destination
A0, A1 = torch.tensor([0, 1]), torch.tensor([1, 1])
R, D = f(1.0, -1.0), f(0.5, 0.0)  # the second transition terminates


def test_one_step_errors():
    near(ops.td_learning(f(2.0, 3.0), R, D, f(4.0, 9.0)), [1 + 2 - 2.0, -1 - 3.0])
    near(ops.sarsa(Q0, A0, R, D, Q1, A1), [1 + 0.5 * 1 - 1, -1 - 4.0])
    near(ops.expected_sarsa(Q0, A0, R, D, Q1, f([[0.5, 0.5], [1, 0]])), [1 + 0.5 * 0.5 - 1, -5.0])
    near(ops.q_learning(Q0, A0, R, D, Q1), [1 + 0.5 * 1 - 1, -5.0])
    near(ops.double_q_learning(Q0, A0, R, D, Q1, f([[9.0, 0.0], [0.0, 9.0]])), [1 + 0.5 * 0 - 1, -5.0])
    near(ops.persistent_q_learning(Q0, A0, R, D, Q1, 0.25), [1 + 0.5 * (0.75 * 1 + 0.25 * 0) - 1, -5.0])
    near(ops.qv_learning(Q0, A0, R, D, f(4.0, 9.0)), [1 + 2 - 1.0, -5.0])
    near(ops.qv_max(f(2.0, 3.0), R, D, Q1), [1 + 0.5 - 2, -4.0])


# Two steps, discount 1/2 each, rewards 1 and 2, values 4 then 8 at times 1 and 2, lambda 1/2:
# G_1 = 2 + 1/2 * 8 = 6, G_0 = 1 + 1/2 (1/2 * 4 + 1/2 * 6) = 3.5.
R2, D2, V1, V0 = f(1.0, 2.0), f(0.5, 0.5), f(4.0, 8.0), f(1.0, 4.0)


def test_returns():
    near(ops.lambda_returns(R2, D2, V1, 0.5), [3.5, 6.0])
    near(ops.discounted_returns(R2, D2, V1), [1 + 0.5 * 6, 6.0])
    near(ops.discounted_returns(R2, D2, f(8.0)), [4.0, 6.0])
    near(ops.n_step_bootstrapped_returns(R2, D2, V1, 1), [3.0, 6.0])
    near(ops.n_step_bootstrapped_returns(R2, D2, V1, 2), [4.0, 6.0])
    # deltas: 1 + 2 - 1 = 2 and 2 + 4 - 4 = 2; A_0 = 2 + 1/2 * 1/2 * 2.
    near(ops.truncated_generalized_advantage_estimation(R2, D2, 0.5, f(1.0, 4.0, 8.0)), [2.5, 2.0])
    # c = 1/4, q = 2: G_0 = 1 + 1/2 (4 - 1/4 * 2 + 1/4 * 6).
    near(ops.general_off_policy_returns_from_q_and_v(f([2.0]), V1, R2, D2, f([0.25])), [3.5, 6.0])
    q, pi = f([[2.0, 6.0], [8.0, 8.0]]), f([[0.5, 0.5], [0.5, 0.5]])
    a = torch.tensor([0, 0])
    near(ops.general_off_policy_returns_from_action_values(q, a, R2, D2, f(0.25, 9.0), pi), [3.5, 6.0])
    # delta = 2, 2; D_0 = 2 + rho_1 lambda discount 2 = 2 + 3 * 1/2 * 1/2 * 2 = 3.5, times rho_0 = 2.
    near(ops.importance_corrected_td_errors(R2, D2, f(2.0, 3.0), 0.5, f(1.0, 4.0, 8.0)), [7.0, 6.0])


def test_multi_step_errors():
    near(ops.td_lambda(V0, R2, D2, V1, 0.5), [2.5, 2.0])
    q0, q1 = f([[1.0, 0.0], [4.0, 0.0]]), f([[4.0, 3.0], [8.0, 7.0]])
    zero = torch.tensor([0, 0])
    near(ops.sarsa_lambda(q0, zero, R2, D2, q1, zero, 0.5), [2.5, 2.0])
    near(ops.q_lambda(q0, zero, R2, D2, q1, 0.5), [2.5, 2.0])
    # pi(a_1)/mu = 0.5/2 -> c = 1/4: G_0 = 1 + 1/2 (3.5 - 1/4 * 4 + 1/4 * (2 + 1/2 * 7.5)).
    pi, mu = f([[0.5, 0.5], [0.5, 0.5]]), f(2.0, 2.0)
    g1 = 2 + 0.5 * 7.5
    near(ops.retrace(q0, q1, zero, zero, R2, D2, pi, mu, 1.0, eps=0.0), [1 + 0.5 * (2.5 + 0.25 * g1) - 1, g1 - 4])
    near(ops.retrace_continuous(V0, f([2.0]), V1, R2, D2, f([math.log(0.25)]), 1.0), [3.5 - 1, 6.0 - 4])


def test_vtrace():
    # rho = 1/2 and 4 clipped to 1: delta = 2, 2; error_1 = 2, error_0 = 1/2 * 2 + 1/2 * 1/2 * 2 = 1.5.
    rho = f(0.5, 4.0)
    near(ops.vtrace(V0, V1, R2, D2, rho), [1.5, 2.0])
    near(ops.vtrace(V0, V1, R2, D2, rho, sample_mask=torch.tensor([False, True])), [2.0, 2.0])
    near(ops.leaky_vtrace(V0, V1, R2, D2, rho, alpha_=0.0), [1 + 0.25 * 8, 8.0])
    out = ops.vtrace_td_error_and_advantage(V0, V1, R2, D2, rho)
    assert isinstance(out, ops.VTraceOutput)
    near(out.errors, [1.5, 2.0])
    near(out.q_estimate, [1 + 0.5 * (2 + 4), 6.0])  # target_1 = error_1 + v_1 = 6
    near(out.pg_advantage, [0.5 * (4 - 1), 1.0 * (6 - 4)])
    out = ops.leaky_vtrace_td_error_and_advantage(V0, V1, R2, D2, rho, alpha=0.0)
    near(out.pg_advantage, [0.5 * (1 + 0.5 * 12 - 1), 4.0 * 2])


def test_distributional():
    # Mass 1 at 0.25 between atoms 0 and 1; mass outside goes to the ends.
    near(ops.categorical_l2_project(f([0.25]), f([1.0]), f(0.0, 1.0)), [0.75, 0.25])
    near(ops.categorical_l2_project(f(-3.0, 5.0), f(0.4, 0.6), f(0.0, 1.0, 3.0)), [0.4, 0.0, 0.6])
    atoms = f(0.0, 1.0)
    even = f([[0.0, 0.0]])
    # Target atoms 0.5 + 0 * z: half the mass each, against a uniform prediction: log 2.
    near(ops.categorical_td_learning(atoms, even, f([0.5]), f([0.0]), atoms, even), [LN2])
    logits = f([[[0.0, 0.0], [math.log(3.0), 0.0]]])  # (1, A, K): action 1 predicts 3/4, 1/4
    one = torch.tensor([1])
    # All target mass on atom 0: -log 3/4.
    near(ops.categorical_q_learning(atoms, logits, one, f([0.0]), f([0.0]), atoms, logits), [-math.log(0.75)])
    # Selector picks action 1, discount 1: target (3/4, 1/4).
    near(
        ops.categorical_double_q_learning(atoms, logits, one, f([0.0]), f([1.0]), atoms, logits, f([[0.0, 1.0]])),
        [-0.75 * math.log(0.75) - 0.25 * math.log(0.25)],
    )
    # src 0 and 2, levels 1/4 and 3/4, target 1: 1/4 * 1 + |3/4 - 1| * 1.
    near(ops.quantile_regression_loss(f([[0.0, 2.0]]), f(0.25, 0.75), f([[1.0]])), [0.5])
    near(ops.quantile_regression_loss(f([[0.0, 2.0]]), f(0.25, 0.75), f([[1.0]]), 1.0), [0.25])
    dist = f([[[0.0, 9.0], [2.0, 9.0]]])  # (1, M, A)
    zero = torch.tensor([0])
    value = f([[[1.0, 5.0]]])
    near(ops.quantile_q_learning(dist, f(0.25, 0.75), zero, f([0.0]), f([1.0]), f([[[1.0, 0.0]]]), value), [0.5])
    # Half the target at 1 (loss 0.5), half at 5: 1/4 * 5 + 3/4 * 3 = 3.5.
    near(ops.quantile_expected_sarsa(dist, f(0.25, 0.75), zero, f([0.0]), f([1.0]), value, f([[0.5, 0.5]])), [2.0])


def test_policy_gradients():
    logits = f([[0.0, 0.0], [0.0, math.log(3.0)]])  # (1/2, 1/2) and (1/4, 3/4)
    q = f([[1.0, 3.0], [0.0, 4.0]])  # means 2 and 3
    near(ops.policy_gradient_loss(logits, A0, f(2.0, 4.0), f(1.0, 0.5)), (2 * LN2 - 2 * math.log(0.75)) / 2)
    near(ops.entropy_loss(logits, f(1.0, 0.0)), -LN2 / 2)
    near(ops.qpg_loss(logits, q), 0.0)
    near(ops.rm_loss(logits, q), -(0.5 * 1 + 0.75 * 1) / 2)
    near(ops.rpg_loss(logits, q), (1 + 1) / 2)
    near(ops.clipped_surrogate_pg_loss(f(0.5, 1.5), f(1.0, 2.0), 0.25), -(0.5 + 2.5) / 2)
    a = f([1.0, 1.0]).requires_grad_()
    near(ops.dpg_loss(a, f([3.0, 4.0])), [4.5, 8.0])
    near(ops.dpg_loss(a, f([3.0, 4.0]), 1.0), [0.18, 0.32])
    ops.dpg_loss(a, f([3.0, 4.0])).sum().backward()
    near(a.grad, [-3.0, -4.0])


def test_mpo():
    positive = torch.clone
    eta = ops.LagrangePenalty(f(1.0), 0.5)
    q = f([[0.0], [math.log(3.0)]])  # weights 1/4 and 3/4, log mean exp = log 2
    loss, weights, count = ops.mpo_compute_weights_and_temperature_loss(q, eta, positive)
    near(loss, [0.5 + LN2])
    near(weights, [[0.25], [0.75]])
    assert count == 2
    kl = (f([0.3]), ops.LagrangePenalty(f(2.0), 0.1))
    near(torch.stack(ops.compute_parametric_kl_penalty_and_dual_loss([kl], positive)), [[0.6], [-0.4]])
    loss, parts = ops.mpo_loss(f([[-1.0], [-2.0]]), q, eta, [kl])
    assert isinstance(parts, ops.MpoOutputs)
    near(parts.policy_loss, [0.25 + 1.5])
    near(loss, [1.75 + 0.5 + LN2 + 0.6 - 0.4])
    advantage, one = f(0.0, math.log(3.0), -9.0, -9.0), f(1.0, 1.0, 1.0, 1.0)
    loss, weights, count = ops.vmpo_compute_weights_and_temperature_loss(advantage, one, one, eta, positive, 0.5)
    near(loss, 0.5 + LN2)
    near(weights, [0.25, 0.75, 0.0, 0.0])
    near(count, 2.0)
    loss, parts = ops.vmpo_loss(-one, advantage, eta, [])
    near(parts.policy_loss, [1.0, 3.0, 0.0, 0.0])
    near(loss, [1.5 + LN2, 3.5 + LN2, 0.5 + LN2, 0.5 + LN2])


def test_discrete_distributions():
    logits = f(0.0, 2 * math.log(3.0))
    d = ops.softmax(2.0)
    assert isinstance(d, ops.DiscreteDistribution)
    near(d.probs(logits), [0.25, 0.75])
    near(d.logprob(torch.tensor(1), logits), math.log(0.75))
    entropy = -0.25 * math.log(0.25) - 0.75 * math.log(0.75)
    near(d.entropy(logits), entropy)
    near(d.kl(logits, f(0.0, 0.0)), LN2 - entropy)
    near(ops.clipped_entropy_softmax(2.0, 0.5).entropy(logits), 0.5 * LN2)
    near(ops.greedy().probs(f(1.0, 2.0, 2.0)), [0, 0.5, 0.5])
    near(ops.greedy().entropy(f(1.0, 2.0, 2.0)), LN2)
    near(ops.epsilon_greedy(0.3).probs(f(1.0, 2.0, 2.0)), [0.1, 0.45, 0.45])
    near(ops.categorical_importance_sampling_ratios(f(0.0, 0.0), f(0.0, math.log(3.0)), torch.tensor(1)), 2 / 3)
    near(ops.categorical_cross_entropy(f(0.5, 0.5), f(0.0, 0.0)), LN2)
    near(ops.categorical_kl_divergence(f(0.0, 0.0), f(0.0, math.log(3.0))), 0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    with pytest.raises(ValueError, match="epsilon"):
        ops.epsilon_greedy().probs(logits)


def test_continuous_distributions():
    one, zero = f([1.0]), f([0.0])
    normal = ops.gaussian_diagonal()
    assert isinstance(normal, ops.ContinuousDistribution)
    near(normal.logprob(zero, zero, one), -0.5 * math.log(2 * math.pi))
    near(normal.entropy(zero, one), 0.5 * math.log(2 * math.pi * math.e))
    near(normal.kl_to_standard_normal(f([2.0]), one), 2.0)
    near(ops.multivariate_normal_kl_divergence(zero, one, f([1.0]), f([2.0])), LN2 + 2 / 8 - 0.5)
    # At mu = sigma = 0: m = 0, log s = -2; the action 1 of (-1, 3) is u = 0, of slope 2.
    near(ops.squashed_gaussian().logprob(one, zero, zero, (-1.0, 3.0)), -0.5 * math.log(2 * math.pi) + 2 - LN2)


def test_sampling_is_seeded_and_unbiased():
    def g(seed=0):
        return torch.Generator().manual_seed(seed)

    p = f(0.2, 0.0, 0.8).expand(20_000, 3)
    a = ops.categorical_sample(g(), p)
    assert torch.equal(a, ops.categorical_sample(g(), p))
    assert abs((a == 0).double().mean() - 0.2) < 4 * 0.4 / 20_000**0.5
    assert not (a == 1).any()
    zero = torch.zeros(20_000, dtype=torch.float64)
    assert abs(ops.add_gaussian_noise(g(), zero, 0.5).std() - 0.5) < 0.02
    near(ops.add_ornstein_uhlenbeck_noise(g(), f(1.0), f(2.0), 0.25, 0.0), 2.5)
    noisy = ops.add_dirichlet_noise(g(), p, 0.03, 0.25)
    near(noisy.sum(-1), torch.ones(20_000))
    assert abs(noisy[:, 1].mean() - 0.25 / 3) < 0.01
    starts = ops.sample_start_indices(g(), 9, 4, 3)
    assert torch.equal(starts.sort(1).values, torch.arange(4).expand(9, 4))
    for make in (ops.softmax, ops.greedy, lambda: ops.epsilon_greedy(0.0)):
        assert (make().sample(g(), f(0.0, 50.0).expand(9, 2)) == 1).all()
    assert ops.gaussian_diagonal(0.5).sample(g(), f(0.0, 1.0)).shape == (2,)
    drawn = ops.squashed_gaussian().sample(g(), zero[:, None], zero[:, None], (-1.0, 3.0))
    assert drawn.min() > -1
    assert drawn.max() < 3


def test_gumbel_softmax_straight_through():
    logits = torch.zeros(20_000, 3, requires_grad=True)
    action_mask = torch.tensor([True, False, True]).expand_as(logits)
    y = ops.gumbel_softmax_straight_through(logits, 0.7, action_mask, torch.Generator().manual_seed(0))
    assert set(y.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(y.sum(-1), torch.ones(20_000))
    assert not y[:, 1].any()
    assert abs(y[:, 0].mean() - 0.5) < 0.02
    (y * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert not logits.grad[:, 1].any()
    assert logits.grad[:, 0].abs().max() > 0


def test_transforms():
    x = f(-3.0, 0.0, 3.0)
    near(ops.identity(x), x)
    near(ops.sigmoid(f(math.log(3.0))), 0.75)
    near(ops.logit(f(0.75)), math.log(3.0))
    near(ops.power(f(-3.0), 1.0), -3.0)
    near(ops.power(f(-6.0), 4.0), -((6 / 2 + 1) ** 4 - 1) / 2)
    near(ops.signed_logp1(x), [-math.log(4), 0, math.log(4)])
    near(ops.signed_expm1(ops.signed_logp1(x)), x)
    near(ops.signed_hyperbolic(x), [-1.003, 0, 1.003])
    near(ops.signed_parabolic(f(-1.003, 0.0, 1.003)), x)
    near(ops.hyperbolic_sin(ops.hyperbolic_arcsin(x)), x)
    near(ops.transform_to_2hot(f(-9.0, 0.25, 2.0), 0.0, 2.0, 3), [[1, 0, 0], [0.75, 0.25, 0], [0, 0, 1]], 1e-5)
    near(ops.transform_from_2hot(f(0.75, 0.25, 0.0), 0.0, 2.0, 3), 0.25)


def test_pairs_are_inverses():
    x = f(-2.0, 0.3, 1.7)
    tx = ops.SIGNED_HYPERBOLIC_PAIR
    assert isinstance(tx, ops.TxPair)
    for pair in (ops.IDENTITY_PAIR, tx, ops.SIGNED_LOGP1_PAIR, ops.HYPERBOLIC_SIN_PAIR, ops.compose_tx(tx, tx)):
        near(pair.apply_inv(pair.apply(x)), x)
    for pair in (ops.twohot_pair(-3, 3, 7), ops.muzero_pair(-3, 3, 7, tx), ops.unbiased_transform_pair(-3, 3, 7, tx)):
        near(pair.apply_inv(pair.apply(x)), x, 1e-4)
    near(ops.DISCOUNT_TRANSFORM_PAIR.apply(f(0.5)), LN2)
    near(ops.DISCOUNT_TRANSFORM_PAIR.apply_inv(f(LN2)), 0.5)


def test_transformed_returns_undo_transform_act_and_transform():
    double = ops.TxPair(lambda x: 2 * x, lambda x: x / 2)
    near(ops.transformed_lambda_returns(double, R2, D2, 2 * V1, 0.5), [7.0, 12.0])
    near(ops.transformed_n_step_returns(double, R2, D2, 2 * V1, 2), [8.0, 12.0])
    q, pi, zero = f([[2.0, 6.0], [8.0, 8.0]]), f([[0.5, 0.5], [0.5, 0.5]]), torch.tensor([0, 0])
    c = f(0.25, 9.0)
    near(ops.transformed_general_off_policy_returns_from_action_values(double, 2 * q, zero, R2, D2, c, pi), [7.0, 12.0])
    q1 = f([[4.0, 3.0], [8.0, 7.0]])
    none = torch.zeros(2, 2, dtype=torch.float64)
    near(ops.transformed_q_lambda(none, zero, R2, D2, 2 * q1, 0.5, tx_pair=double), [7.0, 12.0])
    near(ops.transformed_n_step_q_learning(none, zero, 2 * q1, zero, R2, D2, 2, tx_pair=double), [8.0, 12.0])
    mu = f(2.0, 2.0)
    near(ops.transformed_retrace(none, 2 * q, zero, zero, R2, D2, pi, mu, 1.0, eps=0.0, tx_pair=double), [7.0, 12.0])


def test_general_value_functions():
    frames = torch.zeros(2, 4, 4, 1, dtype=torch.float64)
    frames[1, :2, :2] = 1.0
    frames[1, 3, 3] = 0.4
    near(ops.pixel_control_rewards(frames, 2), [[[1.0, 0.0], [0.0, 0.1]]])
    x = f([[1.0, 2.0], [0.0, 5.0]])
    near(ops.feature_control_rewards(x), [[1.0, 3.0]])
    near(ops.feature_control_rewards(x, "increase"), [[-1.0, 3.0]])
    near(ops.feature_control_rewards(x, "decrease"), [[1.0, -3.0]])
    near(ops.feature_control_rewards(x, "feature"), [[0.0, 5.0]])
    near(ops.feature_control_rewards(x, "potential", 0.9), [[-1.0, 2.5]])
    values = torch.zeros(2, 2, 2, 3, dtype=torch.float64)
    values[1] = 2.0
    loss = ops.pixel_control_loss(frames, torch.tensor([1]), values, 0.5, 2)
    near(loss, [[[2.0, 0.5], [0.5, 0.605]]])  # (r + 0.5 * 2)^2 / 2


def test_popart():
    old = ops.PopArtState(f(0.0, 1.0), f(1.0, 2.0), f(1.0, 5.0))
    index = torch.tensor([1, 0])
    near(ops.normalize(old, f(5.0, 3.0), index), [2.0, 3.0])
    near(ops.unnormalize(old, f(2.0, 3.0), index), [5.0, 3.0])
    out = ops.unnormalize_linear(old, f([[0.0, 2.0], [3.0, 0.0]]), index)
    assert isinstance(out, ops.PopArtOutput)
    near(out.unnormalized, [5.0, 3.0])
    new = ops.art(old, f(2.0, 2.0), torch.tensor([0, 0]), 0.25, 1e-3, 1e3)
    near(new.shift, [1.0, 1.0])
    near(new.second_moment, [2.5, 5.0])
    near(new.scale, [1.5**0.5, 2.0])
    params = {"w": f([[1.0, 2.0]]), "b": f(1.0, 1.0)}
    kept = ops.pop(params, old, new)
    for state, p in ((old, params), (new, kept)):
        near(state.scale * (3 * p["w"][0] + p["b"]) + state.shift, [4.0, 15.0])
    init, update = ops.popart(2, 0.25, 1e-3, 1e3)
    assert init().scale.tolist() == [1.0, 1.0]
    updated, state = update(params, old, f(2.0, 2.0), torch.tensor([0, 0]))
    near(updated["b"], kept["b"])
    near(state.shift, new.shift)


def test_create_ema():
    init, update = ops.create_ema(0.5)
    state = init({"x": f(0.0, 0.0)})
    assert isinstance(state, ops.EmaState)
    moments, state = update({"x": f(1.0, 3.0)}, state)
    assert isinstance(moments, ops.EmaMoments)
    near(moments.mean["x"], 2.0)
    near(moments.variance["x"], 1.0)
    moments, _ = update({"x": f(5.0, 5.0)}, state)
    near(moments.mean["x"], (0.5 * 1 + 0.5 * 5) / 0.75)


def test_losses():
    near(ops.l2_loss(f(3.0), f(1.0)), 2.0)
    near(ops.l2_loss(f(3.0)), 4.5)
    near(ops.huber_loss(f(0.5, -3.0), 1.0), [0.125, 2.5])
    near(ops.likelihood(f(0.25, 0.25), f(1.0, 0.0)), [0.25, 0.75])
    near(ops.log_loss(f(0.25, 0.25), f(1.0, 0.0)), [-math.log(0.25), -math.log(0.75)])
    near(ops.expectile_loss(f(0.0, 0.0), f(2.0, -2.0), 0.25), [1.0, 3.0])
    x = f(1.0, -2.0, 0.1).requires_grad_()
    y = ops.clip_gradient(x, -1.0, 0.5)
    near(y, x)
    (y * f(3.0, -3.0, 0.2)).sum().backward()
    near(x.grad, [0.5, -1.0, 0.2])


def test_episodic_memory():
    data = f([[0.0, 0.0], [3.0, 4.0], [1.0, 0.0]])
    found = ops.knn_query(data, f([[0.0, 0.0]]), 2)
    assert isinstance(found, ops.KNNQueryResult)
    assert found.neighbor_indices.tolist() == [[0, 2]]
    near(found.neighbor_neg_distances, [[0.0, -1.0]])
    # First call: the memory holds two zero vectors, so both distances are 25 = their mean.
    reward, state = ops.episodic_memory_intrinsic_rewards(f([[3.0, 4.0]]), 2, 1.0, max_memory_size=3)
    assert isinstance(state, ops.IntrinsicRewardState)
    rate = 25 / (25 - 1e-3) - 0.008
    near(reward, [1 / ((2 * 1e-4 / (rate + 1e-4)) ** 0.5 + 1e-3)])
    near(state.memory[:2], [[3.0, 4.0], [0.0, 0.0]])
    assert (state.next_memory_index, state.distance_count) == (1, 2)


def test_indexing_embedding_and_streams():
    near(ops.batched_index(Q0, A0), [1.0, 4.0])
    assert ops.batched_index(Q0, A0, keepdims=True).shape == (2, 1)
    near(ops.one_hot(torch.tensor([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])
    assert ops.lhs_broadcast(R, Q0).shape == (2, 1)
    near(ops.replace_masked(Q0, None, torch.tensor([True, False])), [[0, 0], [3, 4]])
    near(ops.embed_oar(f([[5.0]]), torch.tensor([1]), f([0.0]), 2), [[5, 0, 1, 0]])
    kinds = torch.tensor([0, 1, 0, 1, 2, 0])
    assert ops.fix_step_type_on_interruptions(kinds).tolist() == [0, 2, 0, 1, 2, 0]
    x = torch.arange(6.0).view(6, 1)
    assert ops.extract_subsequences(x, torch.tensor([[1, 3]]), 2)[:, 0].tolist() == [[1, 3], [2, 4]]
    with pytest.raises(ValueError, match="start_indices"):
        ops.extract_subsequences(x, torch.tensor([[5]]), 2, max_valid_start_idx=4)


def test_policy_targets_and_updates():
    policy = torch.distributions.Categorical(probs=f([[0.25, 0.75]]))
    targets = ops.PolicyTarget(torch.tensor([[0], [1]]), f([[1.0], [3.0]]))
    near(ops.sampled_policy_distillation_loss(policy, targets), -(math.log(0.25) + 3 * math.log(0.75)) / 2)
    drawn = ops.constant_policy_targets(policy, torch.Generator().manual_seed(1), 4, 2.0)
    assert torch.equal(drawn.actions, ops.constant_policy_targets(policy, torch.Generator().manual_seed(1), 4).actions)
    assert drawn.weights.tolist() == [[2.0]] * 4
    assert not ops.zero_policy_targets(policy, None, 4).weights.any()
    new, old = {"a": f(1.0), "b": [f(2.0)]}, {"a": f(3.0), "b": [f(4.0)]}
    assert ops.periodic_update(new, old, 4, 2)["a"] == 1
    assert ops.periodic_update(new, old, torch.tensor(5), 2)["b"][0] == 4
    assert ops.conditional_update(new, old, torch.tensor(True))["b"][0] == 2


def test_multi_agent():
    near(ops.coma_advantage(Q0, A0, f([[0.5, 0.5], [1.0, 0.0]])), [-0.5, 1.0])
    pi = f([[0.3, 0.7], [0.6, 0.4]])
    both = torch.stack([ops.coma_advantage(Q0, torch.full((2,), a), pi) for a in range(2)], -1)
    near((pi * both).sum(-1), [0.0, 0.0])  # no bias: the baseline sums out
    order = torch.tensor([2, 0, 1])
    near(ops.happo_ratio_product(f([[2.0, 3.0, 5.0]]), order), [[5.0, 10.0, 1.0]])
    masked = ops.happo_ratio_product(f([[2.0, 3.0, 5.0]]), order, torch.tensor([[True, True, False]]))
    near(masked, [[1.0, 2.0, 1.0]])
    action_mask = torch.tensor([[True, False], [True, True]])
    near(ops.greedy_action_values(Q0, Q1, action_mask), [1.0, 3.0])
    mask = torch.tensor([[True, False], [True, True]])
    near(ops.sum_mixing(Q0), [3.0, 7.0])
    near(ops.sum_mixing(Q0, mask), [1.0, 7.0])
    near(ops.vdn_targets(R, D, Q0), [1 + 0.5 * 3, -1.0])
    # Hidden units: ELU(1 * 1 + 2 * |-1| - 1) = 2 and ELU(1 * 0 + 2 * 0 - 1) = e^-1 - 1, weighted |-1| and 2, plus 3.
    mixer = (f([[[1.0, 0.0], [-1.0, 0.0]]]), f([[-1.0, -1.0]]), f([[-1.0, 2.0]]), f([3.0]))
    total = 2 + 2 * (math.exp(-1) - 1) + 3
    near(ops.monotonic_mixing(Q0[:1], *mixer), [total])
    near(ops.qmix_targets(R[:1], D[:1], Q0[:1], *mixer), [1 + 0.5 * total])
    near(ops.qmix_lambda_targets(R2, D2, V1, 0.5), [3.5, 6.0])


def test_monotonic_mixing_never_falls_as_an_agents_value_rises():
    g = torch.Generator().manual_seed(0)
    q = torch.randn(50, 3, generator=g, requires_grad=True)
    w1, b1, w2, b2 = (torch.randn(50, *s, generator=g) for s in ((3, 8), (8,), (8,), ()))
    ops.monotonic_mixing(q, w1, b1, w2, b2).sum().backward()
    assert (q.grad >= 0).all()


def test_every_public_name_is_tested_by_hand():
    text = "".join((Path(__file__).parent / name).read_text() for name in ("test_by_hand.py", "test_advantage.py"))
    missing = [name for name in ops.__all__ if f"ops.{name}" not in text]
    assert not missing
