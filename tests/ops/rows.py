"""Every function of `marl.ops` as something to call with named tensors: cases.py and, here, what its grammar lacks.

A row is a call and the declaration of each tensor it takes, in the language of `marl.ops.checks.check`. Distributions,
pairs and states are built inside the call.
"""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from marl import ops
from tests.ops.cases import SEQ, SIZES, STEP, draw

LEAD = {"seq": ("T", "*"), "step": ("*",)}
KINDS = {"a": "int", "k": "bool"}


@dataclass(frozen=True)
class Row:
    name: str
    call: Callable[..., object]
    declared: dict[str, str]
    random: bool = False  # draws numbers: batches differ from their elements
    whole: bool = False  # mixes the batch elements: a statistic, a memory
    drawn: dict[str, torch.Tensor] = field(default_factory=dict, hash=False)

    def arguments(self, batch=(3,), seed=0, time=5, dtype=torch.float64):
        """A tensor for each argument: floats inside (0, 1), integers 0 or 1."""
        if self.drawn:
            return {k: x.to(dtype) if x.is_floating_point() else x for k, x in self.drawn.items()}
        g = torch.Generator().manual_seed(seed)
        out = {}
        for name, words in self.declared.items():
            kind, *axes = words.split()
            shape = [n for axis in axes for n in (batch if axis in ("*", "?*") else (size(axis, time),))]
            x = torch.rand(shape, generator=g, dtype=torch.float64) * 0.8 + 0.1
            out[name] = {
                "float": lambda x: x.to(dtype), "any": lambda x: x.to(dtype), "int": lambda x: (x > 0.5).long(),
                "bool": lambda x: x > 0.4,
            }[kind](x)  # fmt: skip
            if name == "order":
                out[name] = torch.arange(*shape).flip(0)
            elif name == "action_mask":
                out[name][..., 0] = True  # there is always one
        return out


def size(axis, time):
    base, shift = [*axis.replace("-", "+-").split("+"), "0"][:2]
    return {"T": time, "N": 3, "P": 2, "S": 2, "B": 3, "H": 4, "I": 2, "Q": 7, **SIZES}[base] + int(shift)


def of_case(name, variant=0, lead=None, seed=3):
    """A function of cases.py: its words are declarations too."""
    kind = "seq" if name in SEQ else "step"
    text, options = (SEQ if kind == "seq" else STEP)[name][variant]
    lead = lead or ((5, 3) if kind == "seq" else (3,))
    case = draw(name, variant, seed, lead)
    function = getattr(ops, name)
    parameters = list(inspect.signature(function).parameters)
    declared, drawn, fixed = {}, {}, {}
    words = [*zip(parameters, text.split(), case.arguments, strict=False)]
    words += [(key, word, case.options[key]) for key, word in options.items()]
    for parameter, word, value in words:
        if not isinstance(value, np.ndarray):
            fixed[parameter] = value
            continue
        letter, _, axes = word.partition(":")
        own = list(LEAD[kind])
        if letter[-1] in "+-":
            own[0], letter = f"T{letter[-1]}1", letter[:-1]
        declared[parameter] = " ".join([KINDS.get(letter, "float"), *own, *axes])
        drawn[parameter] = torch.from_numpy(value)

    def call(**tensors):
        return function(**tensors, **fixed)

    return Row(name, call, declared, drawn=drawn)


def positive(x):
    return x.clamp(min=1e-10)


def discrete(make):
    d = make()
    rows = [
        ("sample", lambda preferences: d.sample(None, preferences), {"preferences": "float * A"}, "random"),
        ("probs", lambda preferences: d.probs(preferences), {"preferences": "float * A"}),
        ("logprob", lambda sample, preferences: d.logprob(sample, preferences),
         {"preferences": "float * A", "sample": "int *"}),
        ("entropy", lambda preferences: d.entropy(preferences), {"preferences": "float * A"}),
    ]  # fmt: skip
    if d.kl is not None:
        rows.append(("kl", lambda p_logits, q_logits: d.kl(p_logits, q_logits),
                     {"p_logits": "float * A", "q_logits": "float * A"}))  # fmt: skip
    return rows


def softmax_like(make):
    """As `discrete`, whose argument is called logits here."""
    d = make()
    return [
        ("sample", lambda logits: d.sample(None, logits), {"logits": "float * A"}, "random"),
        ("probs", lambda logits: d.probs(logits), {"logits": "float * A"}),
        ("logprob", lambda sample, logits: d.logprob(sample, logits), {"logits": "float * A", "sample": "int *"}),
        ("entropy", lambda logits: d.entropy(logits), {"logits": "float * A"}),
        ("kl", lambda p_logits, q_logits: d.kl(p_logits, q_logits),
         {"p_logits": "float * A", "q_logits": "float * A"}),
    ]  # fmt: skip


NORMAL = {"mu": "float * A", "sigma": "float * A"}
TWO_NORMALS = {"mu_0": "float * A", "sigma_0": "float * A", "mu_1": "float * A", "sigma_1": "float * A"}


def normal_rows(d, *bounds):
    return [
        ("sample", lambda mu, sigma: d.sample(None, mu, sigma, *bounds), NORMAL, "random"),
        ("prob", lambda sample, mu, sigma: d.prob(sample, mu, sigma, *bounds), {**NORMAL, "sample": "float * A"}),
        ("logprob", lambda sample, mu, sigma: d.logprob(sample, mu, sigma, *bounds),
         {**NORMAL, "sample": "float * A"}),
        ("entropy", d.entropy, NORMAL),
        ("kl_to_standard_normal", d.kl_to_standard_normal, NORMAL),
        ("kl", d.kl, TWO_NORMALS),
    ]  # fmt: skip


def penalty(alpha, per_dimension=False):
    return ops.LagrangePenalty(alpha, 0.1, per_dimension)


def mpo(**x):
    kls = [
        (x["kl_constraints[0]"], penalty(x["kl_constraints[0].alpha"])),
        (x["kl_constraints[1]"], penalty(x["kl_constraints[1].alpha"], True)),
    ]
    return ops.mpo_loss(x["sample_log_probs"], x["sample_q_values"], penalty(x["temperature_constraint.alpha"]), kls)


def vmpo(**x):
    kls = [(x["kl_constraints[0]"], penalty(x["kl_constraints[0].alpha"]))]
    return ops.vmpo_loss(
        x["sample_log_probs"], x["advantages"], penalty(x["temperature_constraint.alpha"]), kls,
        restarting_weights=x["restarting_weights"], importance_weights=x["importance_weights"],
    )  # fmt: skip


def dual(**x):
    kls = [
        (x[f"kl_constraints[{i}]"], penalty(x[f"kl_constraints[{i}].alpha"], per_dimension))
        for i, per_dimension in enumerate((False, True))
    ]
    return ops.compute_parametric_kl_penalty_and_dual_loss(kls, positive)


KLS = {
    "kl_constraints[0]": "float *", "kl_constraints[0].alpha": "float",
    "kl_constraints[1]": "float * A", "kl_constraints[1].alpha": "float A",
}  # fmt: skip
ETA = {"temperature_constraint.alpha": "float"}
STATE = {"shift": "float K", "scale": "float K", "second_moment": "float K"}


def with_state(function):
    return lambda shift, scale, second_moment, **x: function(ops.PopArtState(shift, scale, second_moment), **x)


def pop(w, b, **x):
    old, new = (ops.PopArtState(*(x[f"{which}.{name}"] for name in STATE)) for which in ("old", "new"))
    return ops.pop({"w": w, "b": b}, old, new)


POP = {"w": "float D K", "b": "float K"} | {f"{which}.{k}": v for which in ("old", "new") for k, v in STATE.items()}
SIZES["D"] = 3


def popart_update(w, b, targets, indices, **state):
    return ops.popart(5, 0.1, 1e-3, 1e3)[1]({"w": w, "b": b}, ops.PopArtState(**state), targets, indices)


def distillation(actions, weights):
    policy = torch.distributions.Categorical(logits=torch.zeros(3, 4, dtype=weights.dtype), validate_args=False)
    return ops.sampled_policy_distillation_loss(policy, ops.PolicyTarget(actions, weights))


def squashed_with_bounds(mu, sigma, sample, low, high):
    return ops.squashed_gaussian().logprob(sample, mu, sigma, (-low, high + 1))


def memory(embeddings, memory):
    return ops.episodic_memory_intrinsic_rewards(embeddings, 2, 1.0, ops.IntrinsicRewardState(memory))


def two_updates(x):
    init, update = ops.create_ema(0.9)
    return update({"x": x}, update({"x": x}, init({"x": x}))[1])[0]


def pair_rows(pair, argument="x", back="x", coded="float *"):
    return [
        ("apply", lambda **x: pair.apply(*x.values()), {argument: "float *"}),
        ("apply_inv", lambda **x: pair.apply_inv(*x.values()), {back: coded}),
    ]


MIXER = {"w_1": "float * N M", "b_1": "float * M", "w_2": "float * M", "b_2": "float *"}
TRAJECTORY = {"r_t": "float T *", "discount_t": "float T *", "v_t": "float T *"}
V_TRACE = {x: "float T *" for x in ("v_tm1", "v_t", "r_t", "discount_t", "rho_tm1")}
HALF = ops.TxPair(lambda x: x / 2, lambda x: x * 2)

# name: [(which, call, declarations, flags...)]
TABLE = {
    "softmax": softmax_like(lambda: ops.softmax(0.7)),
    "clipped_entropy_softmax": softmax_like(lambda: ops.clipped_entropy_softmax(1.0, 0.5)),
    "greedy": discrete(ops.greedy),
    "epsilon_greedy": discrete(lambda: ops.epsilon_greedy(0.3)),
    "gaussian_diagonal": [
        *normal_rows(ops.gaussian_diagonal()),
        ("fixed_sigma_sample", lambda mu: ops.gaussian_diagonal(0.5).sample(None, mu), {"mu": "float * A"}, "random"),
        ("fixed_sigma", lambda mu, sample: ops.gaussian_diagonal(0.5).logprob(sample, mu),
         {"mu": "float * A", "sample": "float * A"}),
    ],
    "squashed_gaussian": [
        *normal_rows(ops.squashed_gaussian(), (-1.0, 2.0)),
        ("bounds", squashed_with_bounds, {**NORMAL, "sample": "float * A", "low": "float A", "high": "float A"}),
    ],
    "categorical_sample": [("", partial(ops.categorical_sample, None), {"probs": "float * A"}, "random")],
    "gumbel_softmax_straight_through": [
        ("", lambda logits, action_mask: ops.gumbel_softmax_straight_through(logits, 0.7, action_mask),
         {"logits": "float * A", "action_mask": "bool * A"}, "random"),
        ("all", lambda logits: ops.gumbel_softmax_straight_through(logits, 0.7), {"logits": "float * A"}, "random"),
    ],
    "add_gaussian_noise": [
        ("", lambda action: ops.add_gaussian_noise(None, action, 0.3), {"action": "float *"}, "random"),
    ],
    "add_ornstein_uhlenbeck_noise": [
        ("", lambda action, noise_tm1: ops.add_ornstein_uhlenbeck_noise(None, action, noise_tm1, 0.3, 0.0),
         {"action": "float *", "noise_tm1": "float *"}),
    ],
    "add_dirichlet_noise": [
        ("", lambda prior: ops.add_dirichlet_noise(None, prior, 0.3, 0.25), {"prior": "float * A"}, "random"),
    ],
    "knn_query": [
        ("", lambda data, query_points: ops.knn_query(data, query_points, 2),
         {"data": "float Q D", "query_points": "float P D"}, "whole"),
    ],
    "episodic_memory_intrinsic_rewards": [
        ("", memory, {"embeddings": "float B D", "memory": "float Q D"}, "whole"),
        ("first", lambda embeddings: ops.episodic_memory_intrinsic_rewards(embeddings, 2, 1.0, max_memory_size=9),
         {"embeddings": "float B D"}, "whole"),
    ],
    "extract_subsequences": [
        ("", lambda trajectories, start_indices: ops.extract_subsequences(trajectories, start_indices, 2),
         {"trajectories": "any T B D", "start_indices": "int B S"}, "whole"),
    ],
    "fix_step_type_on_interruptions": [("", ops.fix_step_type_on_interruptions, {"step_type": "int T *"})],
    "one_hot": [("", lambda indices: ops.one_hot(indices, 4, torch.float64), {"indices": "int *"})],
    "lhs_broadcast": [("", ops.lhs_broadcast, {"source": "any *", "target": "any * A"}, "whole")],
    "replace_masked": [
        ("", ops.replace_masked, {"data": "any * A", "replacement": "any * A", "mask": "bool *"}),
        ("zeros", lambda data, mask: ops.replace_masked(data, None, mask), {"data": "any * A", "mask": "bool *"}),
    ],
    "clip_gradient": [("", lambda x: ops.clip_gradient(x, -1.0, 1.0), {"x": "float *"})],
    "create_ema": [("", two_updates, {"x": "float *"}, "whole")],
    "conditional_update": [
        ("", lambda new_tensors, old_tensors: ops.conditional_update(new_tensors, old_tensors, torch.tensor(True)),
         {"new_tensors": "any *", "old_tensors": "any *"}),
    ],
    "periodic_update": [
        ("", lambda new_tensors, old_tensors: ops.periodic_update(new_tensors, old_tensors, torch.tensor(4), 2),
         {"new_tensors": "any *", "old_tensors": "any *"}),
    ],
    "sampled_policy_distillation_loss": [
        ("", distillation, {"actions": "int S B", "weights": "float S B"}, "whole"),
    ],
    "normalize": [
        ("", with_state(ops.normalize), {"unnormalized": "float *", "indices": "int *", **STATE}),
    ],
    "unnormalize": [
        ("", with_state(ops.unnormalize), {"normalized": "float *", "indices": "int *", **STATE}),
    ],
    "unnormalize_linear": [
        ("", with_state(ops.unnormalize_linear), {"inputs": "float * K", "indices": "int *", **STATE}),
    ],
    "art": [
        ("", with_state(partial(ops.art, step_size=0.1, scale_lb=1e-3, scale_ub=1e3)),
         {"targets": "float *", "indices": "int *", **STATE}, "whole"),
    ],
    "pop": [("", pop, POP, "whole")],
    "popart": [
        ("", popart_update,
         {"targets": "float *", "indices": "int *", "w": "float D K", "b": "float K", **STATE}, "whole"),
    ],
    "mpo_loss": [
        ("", mpo, {"sample_log_probs": "float S *", "sample_q_values": "float S *", **ETA, **KLS}),
    ],
    "mpo_compute_weights_and_temperature_loss": [
        ("", lambda sample_q_values, **x: ops.mpo_compute_weights_and_temperature_loss(
            sample_q_values, penalty(*x.values()), positive), {"sample_q_values": "float S *", **ETA}),
    ],
    "compute_parametric_kl_penalty_and_dual_loss": [("", dual, KLS)],
    "vmpo_loss": [
        ("", vmpo, {**{x: "float *" for x in ("sample_log_probs", "advantages", "restarting_weights",
                                              "importance_weights")},
                    **ETA, "kl_constraints[0]": "float *", "kl_constraints[0].alpha": "float"}, "whole"),
    ],
    "vmpo_compute_weights_and_temperature_loss": [
        ("", lambda advantages, restarting_weights, importance_weights, **x:
         ops.vmpo_compute_weights_and_temperature_loss(
             advantages, restarting_weights, importance_weights, penalty(*x.values()), positive, 0.5),
         {"advantages": "float *", "restarting_weights": "float *", "importance_weights": "float *", **ETA}, "whole"),
    ],
    "hyperbolic_sin": [("", ops.hyperbolic_sin, {"x": "float *"})],
    "hyperbolic_arcsin": [("", ops.hyperbolic_arcsin, {"x": "float *"})],
    "signed_parabolic": [("", ops.signed_parabolic, {"x": "float *"})],
    "IDENTITY_PAIR": pair_rows(ops.IDENTITY_PAIR),
    "SIGNED_HYPERBOLIC_PAIR": pair_rows(ops.SIGNED_HYPERBOLIC_PAIR),
    "SIGNED_LOGP1_PAIR": pair_rows(ops.SIGNED_LOGP1_PAIR),
    "HYPERBOLIC_SIN_PAIR": pair_rows(ops.HYPERBOLIC_SIN_PAIR),
    "DISCOUNT_TRANSFORM_PAIR": pair_rows(ops.DISCOUNT_TRANSFORM_PAIR, "discount"),
    "compose_tx": pair_rows(ops.compose_tx(ops.SIGNED_LOGP1_PAIR, ops.SIGNED_HYPERBOLIC_PAIR)),
    "twohot_pair": pair_rows(ops.twohot_pair(-2, 2, 5), "scalar", "probs", "float * K"),
    "muzero_pair": pair_rows(ops.muzero_pair(-2, 2, 5, ops.SIGNED_HYPERBOLIC_PAIR), "x", "probs", "float * K"),
    "unbiased_transform_pair": pair_rows(
        ops.unbiased_transform_pair(-2, 2, 5, ops.SIGNED_HYPERBOLIC_PAIR), "x", "probs", "float * K"
    ),
    "transformed_lambda_returns": [
        ("", partial(ops.transformed_lambda_returns, HALF, lambda_=0.8), TRAJECTORY),
        ("steps", partial(ops.transformed_lambda_returns, HALF), {**TRAJECTORY, "lambda_": "float T *"}),
    ],
    "transformed_n_step_returns": [
        ("", partial(ops.transformed_n_step_returns, HALF, n=2), TRAJECTORY),
        ("steps", partial(ops.transformed_n_step_returns, HALF, n=2), {**TRAJECTORY, "lambda_t": "float T *"}),
    ],
    "transformed_general_off_policy_returns_from_action_values": [
        ("", partial(ops.transformed_general_off_policy_returns_from_action_values, HALF),
         {"q_t": "float T * A", "a_t": "int T *", "r_t": "float T *", "discount_t": "float T *", "c_t": "float T *",
          "pi_t": "float T * A"}),
    ],
    "idle_generalized_advantage_estimation": [
        ("", partial(ops.idle_generalized_advantage_estimation, discount=0.9, lambda_=0.8),
         {"reward": "float T *", "value": "float T *", "acting": "bool T *", "terminated": "bool T *",
          "truncated": "bool T *", "final_value": "float T *", "last_value": "float *", "last_acting": "bool *"}),
    ],
    "idle_vtrace": [
        ("", partial(ops.idle_vtrace, discount=0.9, lambda_=0.8),
         {"reward": "float T *", "value": "float T *", "acting": "bool T *", "terminated": "bool T *",
          "truncated": "bool T *", "final_value": "float T *", "last_value": "float *", "last_acting": "bool *",
          "rho": "float T *"}),
    ],
    "masked_mean": [("", partial(ops.masked_mean, dim=-1), {"x": "float * A", "mask": "bool * A"})],
    "masked_normalize": [
        ("", lambda x, mask, owner: ops.masked_normalize(x, mask, owner, 2),
         {"x": "float * N", "mask": "bool * N", "owner": "int N"}, "whole"),
    ],
    "coma_advantage": [("", ops.coma_advantage, {"q_t": "float * A", "a_t": "int *", "pi_t": "float * A"})],
    "happo_ratio_product": [
        ("", ops.happo_ratio_product, {"ratio_t": "float * N", "order": "int N", "mask": "bool * N"}),
    ],
    "greedy_action_values": [
        ("", ops.greedy_action_values,
         {"q_t_value": "float * A", "q_t_selector": "float * A", "action_mask_t": "bool * A"}),
    ],
    "sum_mixing": [("", ops.sum_mixing, {"q": "float * N", "mask": "bool * N"})],
    "monotonic_mixing": [("", ops.monotonic_mixing, {"q": "float * N", **MIXER, "mask": "bool * N"})],
    "vdn_targets": [
        ("", ops.vdn_targets,
         {"r_t": "float *", "discount_t": "float *", "q_t": "float * N", "mask_t": "bool * N"}),
    ],
    "qmix_targets": [
        ("", ops.qmix_targets,
         {"r_t": "float *", "discount_t": "float *", "q_t": "float * N", **MIXER, "mask_t": "bool * N"}),
    ],
    "qmix_lambda_targets": [
        ("", partial(ops.qmix_lambda_targets, lambda_=0.7),
         {"r_t": "float T *", "discount_t": "float T *", "q_tot_t": "float T *"}),
        ("steps", ops.qmix_lambda_targets,
         {"r_t": "float T *", "discount_t": "float T *", "q_tot_t": "float T *", "lambda_": "float T *"}),
    ],
    # Options that the variants of cases.py leave out.
    "discounted_returns": [
        ("last value", ops.discounted_returns, {"r_t": "float T *", "discount_t": "float T *", "v_t": "float *"}),
    ],
    "n_step_bootstrapped_returns": [
        ("steps", partial(ops.n_step_bootstrapped_returns, n=2), {**TRAJECTORY, "lambda_t": "float T *"}),
    ],
    "leaky_vtrace": [("steps", ops.leaky_vtrace, {**V_TRACE, "alpha_": "float T *", "lambda_": "float T *"})],
    "leaky_vtrace_td_error_and_advantage": [
        ("steps", ops.leaky_vtrace_td_error_and_advantage,
         {**V_TRACE, "alpha": "float T *", "lambda_": "float T *", "sample_mask": "bool T *"}),
    ],
    "pixel_control_loss": [
        ("steps", partial(ops.pixel_control_loss, cell_size=2),
         {"actions": "int T *", "observations": "float T+1 * H H M", "action_values": "float T+1 * I I A",
          "discount_factor": "float T *"}),
    ],
    "batched_index": [
        ("keepdims", partial(ops.batched_index, keepdims=True), {"values": "any * D", "indices": "int *"}),
    ],
}  # fmt: skip


def rows_of(name):
    """The function's rows: its variants of cases.py with tensors in different places, then those above."""
    variants = {**STEP, **SEQ}.get(name, [])
    found = {f"{name}-{i}": of_case(name, i) for i in range(len(variants))}
    distinct = {tuple(row.declared): key for key, row in reversed(found.items())}
    rows = {key: row for key, row in found.items() if key in distinct.values()}
    for which, call, declared, *flags in TABLE.get(name, []):
        rows[f"{name}-{which}"] = Row(name, call, declared, "random" in flags, "whole" in flags)
    return rows


# What takes no tensors: records, and functions of numbers or of a distribution object.
RECORDS = {name for name in ops.__all__ if isinstance(getattr(ops, name), type)}
NO_TENSORS = {"sample_start_indices", "constant_policy_targets", "zero_policy_targets"}
NAMES = sorted(set(ops.__all__) - RECORDS - NO_TENSORS)
ROWS = {key: row for name in NAMES for key, row in rows_of(name).items()}


def leaves(out):
    """All tensors of a result, however nested."""
    if isinstance(out, torch.Tensor):
        return [out]
    if isinstance(out, dict):
        out = [out[key] for key in sorted(out)]
    return [leaf for part in out for leaf in leaves(part)] if isinstance(out, list | tuple) else []
