"""Mixers: monotone where they must be, consistent where they must be, deaf to the dead."""

from __future__ import annotations

import itertools

import pytest
import torch

from marl.grid.duplex import DuplexMixer
from marl.grid.mixers import MonotonicMixer, SumMixer
from marl.grid.weighted import FreeMixer

N, S, A = 3, 5, 4
KINDS = [SumMixer, MonotonicMixer, DuplexMixer, FreeMixer]


def make(kind, seed=0, **sizes):
    return kind(N, S, A, torch.Generator().manual_seed(seed), **sizes)


def draw(seed, *shape):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(*s, generator=random) * 3 for s in shape]


def onehot(choice):
    return torch.nn.functional.one_hot(choice, A).float()


@pytest.mark.parametrize("hypernet", [0, 16])
def test_qmix_rises_with_every_agents_value_everywhere(hypernet):
    acting = torch.ones(200, N, dtype=torch.bool)
    for seed in range(20):
        mixer = make(MonotonicMixer, seed, embed=8, hypernet=hypernet)
        q, state = draw(seed, (200, N), (200, S))
        q.requires_grad_()
        total = mixer(q, q, acting, state, torch.zeros(200, N, A))
        (slope,) = torch.autograd.grad(total.sum(), q)
        assert (slope >= 0).all()
        assert (slope > 0).any()


def test_qplex_is_best_where_everybody_is_best():
    joint = torch.tensor(list(itertools.product(range(A), repeat=N)))  # every joint action
    acting = torch.ones(len(joint), N, dtype=torch.bool)
    for seed in range(30):
        mixer = make(DuplexMixer, seed, heads=2, hypernet=8)
        table, state = draw(seed, (N, A), (1, S))
        chosen = table.gather(1, joint.T).T
        best = table.amax(-1).expand(chosen.shape)
        totals = mixer(chosen, best, acting, state.expand(len(joint), S), onehot(joint))
        assert joint[totals.argmax()].tolist() == table.argmax(-1).tolist()


def test_in_qplex_every_value_learns_from_every_joint_action():
    """``Q_tot = sum w V + b + lambda w (Q - V)``; its gradient to a chosen value is ``w``, however small lambda is."""
    mixer = make(DuplexMixer, heads=2, hypernet=8)
    with torch.no_grad():
        mixer.joint[2].bias.fill_(-30.0)  # lambda is next to 0
    table, state = draw(0, (1, N, A), (1, S))
    table.requires_grad_()
    choice = torch.tensor([[0, 1, 2]])
    chosen, best = table.gather(-1, choice.unsqueeze(-1)).squeeze(-1), table.amax(-1)
    total = mixer(chosen, best, torch.ones(1, N, dtype=torch.bool), state, onehot(choice))
    weight = torch.nn.functional.softplus(mixer.weight(state))
    assert torch.allclose(total, (weight * best + mixer.bias(state)).sum(-1), atol=1e-4)
    (slope,) = torch.autograd.grad(total.sum(), table)
    assert torch.allclose(slope, weight.unsqueeze(-1) * onehot(choice), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_the_dead_contribute_nothing(kind):
    mixer = make(kind)
    q, state = draw(1, (6, N), (6, S))
    acting = torch.tensor([[True, False, True]]).expand(6, N)
    choice = torch.randint(A, (6, N), generator=torch.Generator().manual_seed(2))
    other, other_choice = q.clone(), choice.clone()
    other[:, 1] = 99.0
    other_choice[:, 1] = (choice[:, 1] + 1) % A
    ours = mixer(q, q + 1, acting, state, onehot(choice))
    theirs = mixer(other, other + 1, acting, state, onehot(other_choice))
    assert torch.equal(ours, theirs)


def test_vdn_is_the_sum():
    q, state = draw(3, (6, N), (6, S))
    acting = torch.ones(6, N, dtype=torch.bool)
    assert torch.allclose(make(SumMixer)(q, q, acting, state, torch.zeros(6, N, A)), q.sum(-1))


def test_a_tiny_qmix_by_hand():
    mixer = MonotonicMixer(2, 1, 2, torch.Generator(), embed=1, hypernet=0)
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.zero_()
        mixer.weight_1[0].bias[0].copy_(torch.tensor([-2.0, 1.0]))  # |W1| = (2, 1)
        mixer.bias_1[0].bias.fill_(0.5)
        mixer.weight_2[0].bias.fill_(-3.0)
        mixer.value[2].bias.fill_(10.0)
    q = torch.tensor([[1.0, -1.0], [-1.0, 0.0]])
    total = mixer(q, q, torch.ones(2, 2, dtype=torch.bool), torch.zeros(2, 1), torch.zeros(2, 2, 2))
    # ELU(2 - 1 + 0.5) = 1.5; ELU(-2 + 0.5) = exp(-1.5) - 1
    assert total.tolist() == pytest.approx([3 * 1.5 + 10, 3 * (2.718281828**-1.5 - 1) + 10], abs=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_mixer_is_what_its_generator_makes_it(kind):
    one, same, other = (dict(make(kind, seed).state_dict()) for seed in (4, 4, 5))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not one or any(not torch.equal(one[name], other[name]) for name in one)
