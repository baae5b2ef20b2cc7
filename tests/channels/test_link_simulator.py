"""Who hears whom, and what happens to a message on its way."""

from __future__ import annotations

import networkx as nx
import numpy as np
import pytest
import torch

import marl
from marl.channels import Link
from marl.channels.chance import PERIOD, draw_keys, next_keys, normal, uniform
from marl.channels.link_simulator import ActiveEdges, LinkSimulator
from marl.topology import Grid
from tests.support.tiny import spec_of


def team(n, width=4):
    return spec_of(n, width).teams[0]


def heard(topology, n, obs=None):
    """For each agent, the places it hears."""
    adjacency = topology.build(team(n))
    weight = adjacency.weight
    if obs is not None:
        edges, ears = adjacency.dynamic(torch.tensor(obs).unsqueeze(0))
        weight = (edges * ears.unsqueeze(-1))[0]
    return [torch.nonzero(row)[:, 0].tolist() for row in weight]


def test_fixed_topologies_by_hand():
    assert heard(marl.topology.Complete(), 3) == [[1, 2], [0, 2], [0, 1]]
    assert heard(marl.topology.Complete(loops=True), 3) == [[0, 1, 2], [0, 1, 2], [0, 1, 2]]
    assert heard(marl.topology.Ring(), 4) == [[1, 3], [0, 2], [1, 3], [0, 2]]
    assert heard(marl.topology.Ring(directed=True), 4) == [[3], [0], [1], [2]]
    assert heard(marl.topology.Ring(hops=2), 3) == [[1, 2], [0, 2], [0, 1]]
    assert heard(marl.topology.Star(), 3) == [[1, 2], [0], [0]]
    assert heard(marl.topology.Star("agent_2"), 3) == [[2], [2], [0, 1]]
    assert heard(Grid(), 4) == [[1, 2], [0, 3], [0, 3], [1, 2]]
    assert heard(Grid(columns=3), 3) == [[1], [0, 2], [1]]
    assert heard(marl.topology.Groups(("agent_[01]", "*")), 4) == [[1], [0], [3], [2]]


def test_graphs_are_directed_weighted_and_may_loop():
    graph = nx.DiGraph()
    graph.add_weighted_edges_from(
        [("agent_0", "agent_1", 0.5), ("agent_1", "agent_1", 2.0), ("agent_1", "agent_2", 1.0)]
    )
    weight = marl.topology.Graph(graph).build(team(3)).weight
    assert weight.tolist() == [[0, 0, 0], [0.5, 2, 0], [0, 1, 0]]
    assert heard(marl.topology.Graph(nx.path_graph(3)), 3) == [[1], [0, 2], [1]]
    assert marl.topology.Graph([(0, 1), (1, 2), (2, 0)]) == marl.topology.Graph(nx.DiGraph([(0, 1), (1, 2), (2, 0)]))


def test_topologies_that_move_by_hand():
    line = [[0.0, 0, 1, 0], [1.0, 0, 0, 1], [3.0, 0, 1, 1]]
    assert heard(marl.topology.Nearest(1, (0, 1)), 3, line) == [[1], [0], [1]]
    assert heard(marl.topology.Within(2.0, (0, 1)), 3, line) == [[1], [0, 2], [1]]
    assert heard(marl.topology.Where(speak=2), 3, line) == [[2], [0, 2], [0]]
    assert heard(marl.topology.Where(speak=2, hear=3), 3, line) == [[], [0, 2], [0]]
    assert heard(marl.topology.Where(speak=2, hear=3, among=marl.topology.Complete(loops=True)), 3, line) == [
        [],
        [0, 2],
        [0, 2],
    ]
    assert heard(marl.topology.Within(2.0, (0, 1), among=marl.topology.Where(speak=2)), 3, line) == [[], [0, 2], []]
    assert heard(marl.topology.Nearest(1, (0, 1), among=marl.topology.Ring(directed=True)), 3, line) == [[2], [0], [1]]
    dead = [[0.5, 0, 1, 0], [0.0, 0, 0, 0], [3.0, 0, 1, 1], [4.0, 1, 1, 1]]
    nearest = heard(marl.topology.Nearest(1, (0, 1)), 4, dead)
    assert [nearest[n] for n in (0, 2, 3)] == [[2], [3], [2]]  # not the dead one, who would stand at (0, 0)

    def leader(obs):  # everybody hears whoever has the greatest first entry
        best = obs[..., 0].argmax(-1)
        return torch.nn.functional.one_hot(best, obs.shape[-2]).unsqueeze(-2).expand(-1, obs.shape[-2], -1).float()

    assert heard(marl.topology.Dynamic(leader), 3, line) == [[2], [2], []]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: marl.topology.Star("agent_9").build(team(3)), ["Star.hub", "agent_9", "agent_2", "within one team"]),
        (lambda: marl.topology.Graph(nx.path_graph(2)).build(team(3)), ["Graph", "2 nodes for 3 agents", "agent_2"]),
        (lambda: marl.topology.Graph([("agent_0", "agent_x")]).build(team(3)), ["Graph", "unknown agent 'agent_x'"]),
        (lambda: marl.topology.Graph([(0, 1, -1.0)]), ["Graph", "at least 0", "-1"]),
        (lambda: marl.topology.Groups(("agent_0",)).build(team(2)), ["agent_1", "matches none"]),
        (lambda: marl.topology.Groups(("*", "x_*")).build(team(2)), ["x_*", "names no agent"]),
        (lambda: marl.topology.Nearest(3, (0, 1)).build(team(3)), ["Nearest.k", "Complete()"]),
        (lambda: marl.topology.Nearest(0, (0, 1)), ["Nearest.k", "at least 1"]),
        (lambda: marl.topology.Within(1.0, (0, 9)).build(team(3)), ["Within.position", "0 to 3", "9"]),
        (lambda: marl.topology.Within(-1.0, (0, 1)), ["Within.radius", "-1.0"]),
        (lambda: marl.topology.Where(speak=4).build(team(3)), ["Where.speak", "4"]),
        (lambda: marl.topology.Dynamic(lambda obs: obs).build(team(3)), ["Dynamic.edges", "(B, 3, 3)"]),
        (lambda: marl.topology.Ring(hops=0), ["Ring.hops", "0"]),
        (lambda: marl.Link(delay=-1), ["Link.delay", "-1"]),
        (lambda: marl.Link(loss=1.5), ["Link.loss", "1.5"]),
        (lambda: marl.Link(bits=0), ["Link.bits", "1 to 24"]),
        (lambda: marl.Link(noise=-0.1), ["Link.noise"]),
        (lambda: marl.Link(saturation=0), ["Link.saturation"]),
        (lambda: marl.Link(loss="0.1"), ["Link.loss", "expected a number", "'0.1'"]),
        (lambda: marl.Link(noise=None), ["Link.noise", "None"]),
        (lambda: marl.topology.Graph([("agent_0",)]), ["Graph", "(u, v[, weight])", "agent_0"]),
        (lambda: marl.topology.Graph(3), ["Graph", "networkx", "3"]),
        (lambda: marl.topology.Graph([(0, 1, "x")]), ["Graph", "edge 0 to 1", "'x'"]),
        (lambda: marl.topology.Groups("agent_*"), ["Groups", "('agent_*',)"]),
        (lambda: marl.topology.Within(1.0, 2).build(team(3)), ["Within.position", "(2, 3)"]),
        (lambda: marl.topology.Within("1", (0, 1)), ["Within.radius"]),
        (lambda: marl.topology.Dynamic(3).build(team(3)), ["Dynamic.edges", "function"]),
        (lambda: Link.parse("los=0.1"), ["unknown effect 'los'", "did you mean 'loss'"]),
        (lambda: Link.parse("delay=0.5"), ["delay expects a whole number", "0.5"]),
        (lambda: Link.parse("loss"), ["name=value"]),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(make, words):
    with pytest.raises(marl.ConfigError) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_links_are_read_from_text():
    base = Link(bits=2)
    assert Link.parse("loss=0.2, delay=1", base) == Link(bits=2, delay=1, loss=0.2)
    assert Link.parse("", base) == base


# --- what links do ----------------------------------------------------------------------------------------------------


def send(link, messages, rounds=0, seed=0, copies=None, acting=None):
    """Let agents say ``messages (T, B, N, M)``; what everybody hears at each step as inboxes."""
    length, batch, agents, size = messages.shape
    link_simulator = LinkSimulator(agents, size, rounds, link, dynamic=False)
    state = torch.zeros(batch, agents, link_simulator.width)
    link_simulator.seed(state, torch.Generator().manual_seed(seed))
    active_edges = ActiveEdges(torch.ones(agents, agents) - torch.eye(agents))
    start = torch.zeros(batch, dtype=torch.bool)
    loud = torch.ones(batch, agents)
    acting = torch.ones(length, batch, agents, dtype=torch.bool) if acting is None else acting
    inboxes = []
    for t in range(length):
        in_flight = link_simulator.open(state, start)
        if rounds == 0:
            inboxes.append(link_simulator.arriving(in_flight, active_edges))
            link_simulator.leave(in_flight, messages[t], loud, active_edges, acting[t])
        else:
            for turn in range(rounds):
                inboxes.append(
                    link_simulator.exchange(in_flight, turn, messages[t] + 100 * turn, loud, active_edges, acting[t])
                )
        state = link_simulator.close(in_flight)
    return inboxes


@pytest.mark.parametrize("delay", [0, 1, 3])
def test_a_delay_shifts_by_exactly_so_many_steps(delay):
    said = torch.randn(8, 2, 3, 4)
    heard = send(Link(delay=delay), said)
    for t, inbox in enumerate(heard):
        if t < 1 + delay:
            assert not inbox.weight.any()
        else:
            assert torch.equal(inbox.message[:, 0], said[t - 1 - delay])
            assert inbox.weight.bool().sum().item() == 2 * 6
    for t, inbox in enumerate(send(Link(delay=delay), said, rounds=1)):
        assert bool(inbox.weight.any()) == (t >= delay)
        if t >= delay:
            assert torch.equal(inbox.message[:, 0], said[t - delay])


def test_each_round_is_delayed_on_its_own():
    said = torch.randn(4, 1, 2, 3)
    inboxes = send(Link(delay=2), said, rounds=2)
    for t in range(2, 4):
        for turn in range(2):
            assert torch.equal(inboxes[2 * t + turn].message[:, 0], said[t - 2] + 100 * turn)


def test_messages_are_lost_as_often_as_the_link_says_and_for_every_listener_alone():
    inboxes = send(Link(loss=0.3), torch.ones(60, 40, 4, 1))
    kept = torch.stack([inbox.weight for inbox in inboxes[1:]])  # (T, B, N, N)
    off = kept[..., ~torch.eye(4, dtype=torch.bool)]
    count = off.numel()
    assert abs(off.mean().item() - 0.7) < 4 * (0.21 / count) ** 0.5
    first, second = kept[..., 0, 2].flatten(), kept[..., 1, 2].flatten()  # two listeners of one sender
    assert abs(np.corrcoef(first, second)[0, 1]) < 4 / len(first) ** 0.5
    now, later = kept[:-1, :, 0, 1].flatten(), kept[1:, :, 0, 1].flatten()
    assert abs(np.corrcoef(now, later)[0, 1]) < 4 / len(now) ** 0.5
    assert torch.equal(
        kept, torch.stack([inbox.weight for inbox in send(Link(loss=0.3), torch.ones(60, 40, 4, 1))[1:]])
    )
    other = torch.stack([inbox.weight for inbox in send(Link(loss=0.3), torch.ones(60, 40, 4, 1), seed=1)[1:]])
    assert not torch.equal(kept, other)


def test_certain_loss_is_silence_and_none_is_none():
    assert not any(inbox.weight.any() for inbox in send(Link(loss=1.0), torch.ones(4, 2, 3, 1)))
    assert all(inbox.weight.any() for inbox in send(Link(loss=0.0), torch.ones(4, 2, 3, 1))[1:])


def test_noise_is_normal_with_the_links_deviation_and_differs_between_listeners():
    inboxes = send(Link(noise=0.5), torch.zeros(50, 40, 3, 2))
    noise = torch.stack([inbox.message for inbox in inboxes[1:]]) / 0.5  # (T, B, N, N, M)
    count = noise.numel()
    assert abs(noise.mean().item()) < 4 / count**0.5
    assert abs(noise.std().item() - 1) < 4 / (2 * count) ** 0.5
    assert abs((noise**4).mean().item() - 3) < 4 * (96 / count) ** 0.5
    assert abs(np.corrcoef(noise[..., 0, 2, 0].flatten(), noise[..., 1, 2, 0].flatten())[0, 1]) < 0.1


@pytest.mark.parametrize("bits", [1, 2, 5])
def test_b_bits_are_at_most_two_to_the_b_values_and_gradients_pass_straight_through(bits):
    message = torch.randn(500, 3, requires_grad=True)
    packed = Link(bits=bits, saturation=2.0).pack(message)
    values = packed.unique()
    assert len(values) == 2**bits
    assert values[0] == -2
    assert values[-1] == 2
    clamped = message.detach().clamp(-2, 2)
    assert (packed - clamped).abs().max() <= 2 / (2**bits - 1) + 1e-6
    packed.sum().backward()
    assert torch.equal(message.grad, (message.detach().abs() <= 2).float())


def test_floats_cut_a_message_and_saturation_its_size():
    message = torch.tensor([[3.0, -3.0, 0.25]])
    assert Link(floats=2).pack(message).tolist() == [[3.0, -3.0, 0.0]]
    assert Link(saturation=1.5).pack(message).tolist() == [[1.5, -1.5, 0.25]]
    assert Link(floats=1, bits=1).pack(message).tolist() == [[1.0, 0.0, 0.0]]


def test_a_spent_budget_is_silence_until_the_next_episode():
    inboxes = send(Link(budget=2), torch.ones(5, 1, 2, 1))
    assert [bool(inbox.weight.any()) for inbox in inboxes] == [False, True, True, False, False]
    acting = torch.ones(5, 1, 2, dtype=torch.bool)
    acting[0, 0, 0] = False  # who does not speak spends nothing
    inboxes = send(Link(budget=2), torch.ones(5, 1, 2, 1), acting=acting)
    assert [bool(inbox.weight[0, 1, 0]) for inbox in inboxes] == [False, False, True, True, False]
    within = send(Link(budget=1), torch.ones(2, 1, 2, 1), rounds=2)
    assert [bool(inbox.weight.any()) for inbox in within] == [True, True, False, False]


def test_who_is_silent_in_the_first_round_pays_for_the_second():
    link_simulator = LinkSimulator(2, 1, 2, Link(budget=1), dynamic=False)
    state, active_edges, acting = (
        torch.zeros(1, 2, link_simulator.width),
        ActiveEdges(torch.ones(2, 2)),
        torch.ones(1, 2, dtype=torch.bool),
    )
    heard = []
    for _ in range(2):
        in_flight = link_simulator.open(state, torch.tensor([False]))
        for turn, loud in enumerate((torch.tensor([[0.0, 1.0]]), torch.ones(1, 2))):
            heard.append(
                link_simulator.exchange(in_flight, turn, torch.ones(1, 2, 1), loud, active_edges, acting)
                .weight[0, 0]
                .tolist()
            )
        state = link_simulator.close(in_flight)
    assert heard == [[0, 1], [1, 1], [0, 0], [0, 0]]


# --- chance -----------------------------------------------------------------------------------------------------------


def test_keys_visit_many_numbers_and_are_drawn_only_once():
    keys = torch.zeros(2000)
    draw_keys(keys, torch.Generator().manual_seed(0))
    before = keys.clone()
    draw_keys(keys, torch.Generator().manual_seed(1))
    assert torch.equal(keys, before)
    assert len(keys.unique()) > 1990
    seen = torch.zeros(PERIOD, dtype=torch.bool)
    key = torch.arange(4096).float()
    for _ in range(64):
        seen[key.long()] = True
        key = next_keys(key)
    assert seen.sum() > 4096 * 62  # no short cycles
    assert key.dtype == torch.float32
    assert ((key >= 0) & (key < PERIOD)).all()


def test_uniform_numbers_are_uniform_across_keys_streams_and_places():
    draws = uniform(torch.arange(20_000).float(), 4, 0)
    counts = torch.histc(draws.flatten(), 20, 0, 1)
    expected = draws.numel() / 20
    assert ((counts - expected) ** 2 / expected).sum() < 45  # chi-square of 19 degrees, p = 0.0007
    for a, b in (
        (draws[:, 0], draws[:, 1]),
        (draws[:-1, 0], draws[1:, 0]),
        (draws[:, 0], uniform(torch.arange(20_000.0), 1, 1)[:, 0]),
    ):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.03
    assert torch.isfinite(normal(torch.arange(20_000).float(), 8, 3)).all()
