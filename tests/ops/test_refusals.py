"""Every function refuses every argument of a wrong kind, rank or size, by a ValueError that names it.

Nothing broadcasts. The table is generated: each row of rows.py says which axes an argument has and which of them other
arguments share. An argument may be changed alone where that leaves a valid call (the only argument with that axis);
ACCEPTED lists the further calls that are meant to work.
"""

import re

import pytest
import torch

from marl import ops
from tests.ops.rows import NAMES, NO_TENSORS, RECORDS, ROWS

# Numbers or tensors: a scalar tensor will do.
NUMBERS = {"lambda_", "lambda_t", "alpha", "alpha_", "low", "high", "discount_factor", "kl_constraints[1].alpha"}
# Atoms and levels may go without the batch axes.
SHARED = {
    "z_p", "z_q", "v_atoms_tm1", "v_atoms_t", "q_atoms_tm1", "q_atoms_t", "tau_src", "tau_q_tm1",
}  # fmt: skip
ACCEPTED = (
    {(None, name, "scalar") for name in NUMBERS}
    | {(None, name, "one axis fewer") for name in SHARED | {"low", "high", "kl_constraints[1].alpha"}}
    | {
        ("batched_index", "values", "kind"),  # any
        ("sampled_policy_distillation_loss", "actions", "kind"),  # the distribution's own
        ("replace_masked", "mask", "kind"),  # bool or 0/1
        ("replace_masked", "mask", "scalar"),  # any prefix of data's shape
        ("replace_masked", "mask", "one axis fewer"),
        ("replace_masked-zeros", "data", "one axis more behind"),
        ("lhs_broadcast", "source", "kind"),
        ("lhs_broadcast", "target", "kind"),
        ("lhs_broadcast", "source", "scalar"),
        ("lhs_broadcast", "source", "one axis fewer"),
        ("lhs_broadcast", "target", "one axis more behind"),
        ("extract_subsequences", "trajectories", "one axis more behind"),
        ("extract_subsequences", "trajectories", "one axis fewer"),
        ("pixel_control_loss", "discount_factor", "kind"),  # converted, as a number is
        ("pixel_control_loss", "discount_factor", "precision"),
        ("discounted_returns-0", "v_t", "one axis fewer"),  # the last value alone
    }
)
# The size of the last axis is also an argument.
COUNTED = {"twohot_pair", "muzero_pair", "unbiased_transform_pair", "transform_from_2hot"}


def axes_of(declaration):
    return ["*" if axis == "?*" else re.split(r"[+-]", axis)[0] for axis in declaration.split()[1:]]


def changed(row, arguments):
    """(argument, what was done, the changed tensor) for every change that must be refused."""
    labels = {name: axes_of(words) for name, words in row.declared.items()}
    every = [axis for own in labels.values() for axis in own]
    floats = [n for n, words in row.declared.items() if words.startswith(("float", "any"))]
    for name, x in arguments.items():
        kind, own = row.declared[name].split()[0], labels[name]
        named = [axis for axis in own if axis != "*"]
        shared = [every.count(axis) > 1 for axis in own]
        others = {axis for other, axes in labels.items() if other != name for axis in axes}
        alone = "*" in own and not others & set(own)  # takes any number of batch axes
        counted = row.name in COUNTED and bool(named)
        if kind != "any" or len(floats) > 1:
            yield name, "kind", x.long() if x.is_floating_point() else x.double()
        if kind == "float" and len(floats) > 1:
            yield name, "precision", x.float()
        if not alone or counted:
            yield name, "one axis more behind", x.unsqueeze(-1)
        if not alone:
            yield name, "one axis more in front", x.unsqueeze(0)
            if x.dim():
                yield name, "one axis fewer", x[0]
        if x.dim() and (named or not alone):
            yield name, "scalar", x.flatten()[0]
        for place, tied in enumerate(shared):
            if tied or (counted and place == x.dim() - 1):
                yield name, f"axis {place} longer", torch.cat([x, x.narrow(place, 0, 1)], place)
                if x.shape[place] > 1:
                    yield name, f"axis {place} of size 1", x.narrow(place, 0, 1)


def test_the_table_has_every_function():
    assert {row.name for row in ROWS.values()} == set(NAMES)
    assert set(NAMES) | RECORDS | NO_TENSORS == set(ops.__all__)
    for name in RECORDS:
        assert hasattr(getattr(ops, name), "_fields"), f"{name} is a class that is no record"
    assert all(row.declared for row in ROWS.values())


@pytest.mark.parametrize("key", ROWS)
def test_a_wrong_argument_is_refused_by_name(key):
    row = ROWS[key]
    arguments = row.arguments()
    row.call(**arguments)  # valid as it is
    wrong = []
    for name, what, x in changed(row, arguments):
        accepted = any((who, name, what) in ACCEPTED for who in (key, row.name, None))
        try:
            row.call(**{**arguments, name: x})
        except ValueError as error:
            text = str(error)
            plain = "expected" in text and "got" in text and (name in text or "cell_size" in text)
            if accepted or not plain:
                wrong.append(f"{name}, {what}: {text}")
        except Exception as error:
            wrong.append(f"{name}, {what}: {type(error).__name__}: {error}")
        else:
            if not accepted:
                wrong.append(f"{name}, {what}: accepted")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("key", ROWS)
def test_what_is_not_a_tensor_is_refused(key):
    row = ROWS[key]
    arguments = row.arguments()
    name = next(iter(arguments))
    with pytest.raises((TypeError, ValueError), match="expected"):
        row.call(**{**arguments, name: "a word"})


X, N = torch.ones(3, 2), torch.tensor([0, 1, 0])
STEP_TYPES = torch.zeros(4, 1)
VALUES = {
    "max_valid_start_idx": lambda: ops.sample_start_indices(None, 2, 5, 3),
    "num_samples": lambda: ops.constant_policy_targets(torch.distributions.Categorical(X), None, 0),
    "num_samples ": lambda: ops.zero_policy_targets(torch.distributions.Categorical(X), None, 0),
    "n": lambda: ops.n_step_bootstrapped_returns(X, X, X, 0),
    "num_bins": lambda: ops.transform_to_2hot(X, 0, 1, 1),
    "num_bins ": lambda: ops.transform_from_2hot(X, 0, 1, 1),
    "cell_size": lambda: ops.pixel_control_rewards(torch.ones(2, 4, 4, 1), 3),
    "cumulant_type": lambda: ops.feature_control_rewards(X, "none"),
    "discount": lambda: ops.feature_control_rewards(X, "potential"),
    "discount ": lambda: ops.feature_control_rewards(X, "potential", X[0]),
    "temperature": lambda: ops.gumbel_softmax_straight_through(X, 0.0),
    "dirichlet_alpha": lambda: ops.add_dirichlet_noise(None, X, 0.0, 0.1),
    "epsilon": lambda: ops.epsilon_greedy().probs(X),
    "sigma": lambda: ops.gaussian_diagonal().sample(None, X),
    "gradient_min": lambda: ops.clip_gradient(X, 1.0, 2.0),
    "update_period": lambda: ops.periodic_update(X, X, 1, 0),
    "is_time": lambda: ops.conditional_update(X, X, torch.ones(3, dtype=torch.bool)),
    "new_tensors": lambda: ops.conditional_update([X], {"x": X}, True),
    "start_indices": lambda: ops.extract_subsequences(X, torch.tensor([[3], [0]]), 1, 2),
    "memory": lambda: ops.episodic_memory_intrinsic_rewards(X, 2, 1.0, max_memory_size=2),
    "metric": lambda: ops.knn_query(X, X, 1, lambda data, queries: data),
    "params": lambda: ops.pop({"w": X}, *[ops.PopArtState(X[0], X[0], X[0])] * 2),
    "top_k_fraction": lambda: ops.vmpo_compute_weights_and_temperature_loss(
        X, X, X, ops.LagrangePenalty(torch.tensor(1.0), 0.1), torch.clone, 0.0
    ),
    "sample_axis": lambda: ops.mpo_compute_weights_and_temperature_loss(
        X, ops.LagrangePenalty(torch.tensor(1.0), 0.1), torch.clone, 2
    ),
    "state": lambda: ops.create_ema()[1]({"x": X}, ops.create_ema()[0]({"y": X})),
    "actions": lambda: ops.sampled_policy_distillation_loss(
        torch.distributions.Categorical(X), ops.PolicyTarget(torch.zeros(5, 2), torch.zeros(5, 2))
    ),
}


@pytest.mark.parametrize("name", VALUES)
def test_a_wrong_number_is_refused_by_name(name):
    with pytest.raises(ValueError, match=rf"^{name.strip()}\b.*: expected .*got ") as caught:
        VALUES[name]()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["lambda_returns", "vtrace", "retrace", "policy_gradient_loss", "td_lambda"])
def test_no_time_step_is_refused(name):
    row = ROWS[f"{name}-0"]
    none = {key: x[:0] for key, x in row.arguments().items()}
    with pytest.raises(ValueError, match="expected at least one time step"):
        row.call(**none)


def test_a_message_names_both_that_disagree():
    with pytest.raises(ValueError, match=r"^v_t: expected shape \(3, 2\) \(T, \*\) as r_t has, got \(4, 2\)$"):
        ops.lambda_returns(X, X, torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"^w_1: expected shape \(3, 2, 4\) \(\*, N, M\) as q has, got \(3, 5, 4\)$"):
        ops.monotonic_mixing(X, torch.ones(3, 5, 4), torch.ones(3, 4), torch.ones(3, 4), torch.ones(3))
