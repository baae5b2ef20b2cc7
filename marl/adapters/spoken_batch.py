"""All copies of a world that brings its own batched form, whose agents talk: :class:`~marl.Spoken` in arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from marl.adapters.exchange import Exchange
from marl.channels.link_simulator import ActiveEdges
from marl.spaces import action_spec, obs_spec
from marl.types import Array, BatchEnv, EnvContractError, Spec, Step, TeamSpec, TeamStep, valid_choices

CHANCE = 0x5A1D  # what links do to messages is drawn from (seed, copy, CHANCE)


class SpokenBatch:
    """``E`` copies whose agents talk, as `marl.types.BatchEnv`; what is not about messages is the world's own."""

    def __init__(self, inner: BatchEnv, exchange: Exchange) -> None:
        """``exchange``: the topology laid on all agents, and their spaces with words."""
        self._inner, self._exchange = inner, exchange
        place = {str(agent): n for n, agent in enumerate(exchange.agents)}
        self._teams = [
            _Talkers(team, [place[agent] for agent in team.agents], exchange, inner.num_envs)
            for team in inner.spec.teams
        ]
        spec = inner.spec
        self.spec = Spec(spec.env, tuple(team.spec for team in self._teams), spec.state_shape)
        self.message_entries = exchange.message_entries
        rows = inner.num_envs, len(exchange.agents)
        self._seen = np.zeros((*rows, exchange.rows.shape[1]), dtype=np.float32)  # of the world itself
        self._in_flight_after = torch.zeros(*rows, exchange.link_simulator.width, dtype=torch.float32)  # between steps
        self._step: Step | None = None

    @property
    def num_envs(self) -> int:
        """``E``."""
        return self._inner.num_envs

    @property
    def task_space(self) -> Mapping[str, Any]:
        """The world's task parameters."""
        space: Mapping[str, Any] = getattr(self._inner, "task_space", {})
        return space

    def set_tasks(self, tasks: Mapping[str, Any], copies: Sequence[int] | slice = slice(None)) -> None:
        """Choose task parameters, which hold from each copy's next episode on."""
        self._inner.set_tasks(tasks, copies)  # type: ignore[attr-defined]

    def tasks(self) -> dict[str, Array]:
        """The task that each copy is playing now, ``(E,)`` each."""
        found: dict[str, Array] = self._inner.tasks()  # type: ignore[attr-defined]
        return found

    def reset(self, seed: int, options: Mapping[str, Any] | None = None) -> Step:
        """Start every copy afresh; nothing is in the air."""
        self._in_flight_after = torch.zeros_like(self._in_flight_after)
        if self._exchange.link_simulator.keyed:
            for e in range(self.num_envs):
                fresh = np.random.SeedSequence([seed, e, CHANCE]).generate_state(1, np.uint32)
                generator = torch.Generator().manual_seed(int(fresh[0]))
                self._exchange.link_simulator.seed(self._in_flight_after[e : e + 1], generator)
        return self._arrive(self._inner.reset(seed, options))

    def step(self, actions: Sequence[Array]) -> Step:
        """Everybody acts and speaks, then sees and hears; the Step returned is the same object every time."""
        if self._step is None:
            raise EnvContractError(f"{self.spec.env}: reset(seed) before the first step")
        if len(actions) != len(self._teams):
            raise EnvContractError(f"expected actions of {len(self._teams)} teams, got {len(actions)}")
        rows = self._seen.shape[:2]
        message = torch.zeros(*rows, self._exchange.words, dtype=torch.float32)
        loud, acting = torch.zeros(rows, dtype=torch.float32), torch.zeros(rows, dtype=torch.bool)
        own = []
        for team, now, array in zip(self._teams, self._step.teams, actions, strict=True):
            taken, said, volume = team.part(array)
            own.append(taken)
            message[:, team.places], loud[:, team.places] = torch.from_numpy(said), torch.from_numpy(volume)
            acting[:, team.places] = torch.from_numpy(now.acting)
        step = self._inner.step(own)
        link_simulator = self._exchange.link_simulator
        link_simulator.leave(self._in_flight, message, loud, self._active_edges, acting)
        self._in_flight_after = link_simulator.close(self._in_flight)
        return self._arrive(step)

    def _arrive(self, step: Step) -> Step:
        """What everybody sees and hears: at true successors, where episodes ended, and at what is to be acted on."""
        ended = any(team.next_obs is not team.obs for team in step.teams)
        if ended:
            heard = self._listen([team.next_obs for team in step.teams], torch.zeros(self.num_envs, dtype=torch.bool))
            for team, theirs in zip(self._teams, step.teams, strict=True):
                team.show_successor(theirs, heard, step.started)
        heard = self._listen([team.obs for team in step.teams], torch.from_numpy(step.started.copy()))
        for team, theirs in zip(self._teams, step.teams, strict=True):
            team.show(theirs, heard, ended)
        now = self._step = self._step or Step(
            tuple(team.step for team in self._teams), step.started, step.discarded, step.state, step.next_state, ()
        )
        now.started, now.discarded, now.finished = step.started, step.discarded, step.finished
        now.state, now.next_state = step.state, step.next_state
        return now

    def _listen(self, seen: Sequence[Array], start: torch.Tensor) -> Array:
        """What everybody hears of everybody, ``(E, N, N, M)``, and sets the active edges and messages in flight."""
        adjacency, link_simulator = self._exchange.adjacency, self._exchange.link_simulator
        self._active_edges = ActiveEdges(adjacency.weight)
        if adjacency.dynamic is not None:
            for team, obs in zip(self._teams, seen, strict=True):
                self._seen[:, team.places, : obs.shape[-1]] = obs
            rows = adjacency.now(torch.from_numpy(self._seen))
            self._active_edges = ActiveEdges(rows[..., :-1], rows[..., -1])
        self._in_flight = link_simulator.open(self._in_flight_after, start)
        inbox = link_simulator.arriving(self._in_flight, self._active_edges)
        heard: Array = (inbox.message * inbox.weight.unsqueeze(-1)).numpy()
        return heard

    def state_dict(self) -> dict[str, Any]:
        """All copies exactly, and what is in the air."""
        return {"world": self._inner.state_dict(), "in_flight": self._in_flight_after.numpy().copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> Step:
        """Go on exactly from a saved state; returns the step to act on."""
        step = self._inner.load_state_dict(state["world"])
        self._in_flight_after = torch.from_numpy(np.array(state["in_flight"]))
        return self._arrive(step)

    def close(self) -> None:
        """Close the world's copies."""
        self._inner.close()


class _Talkers:
    """One team's share: its spaces with words, its arrays, how to take words out of actions and put an inbox in."""

    def __init__(self, team: TeamSpec, places: Sequence[int], exchange: Exchange, num_envs: int) -> None:
        """``places``: where its agents stand among all agents."""
        codecs, words = [exchange.codecs[n] for n in places], exchange.words
        self.places, self.quiet = np.array(places), codecs[0].quiet
        seen = tuple(exchange.observation_spaces[n] for n in places)
        acts = tuple(codec.space for codec in codecs)
        obs, action = obs_spec(team.agents, seen), action_spec(team.agents, acts)
        masked = team.masked or (action.kind != "box" and len(set(action.widths)) > 1)
        self.spec = TeamSpec(team.name, team.agents, obs, action, seen, acts, masked)
        self.inner = team.action
        self.heard = np.array([codec.heard for codec in codecs])  # (N,)
        self.each = np.where(self.heard, words, 1)  # what a choice is multiplied by
        self.one_hot = np.eye(words, dtype=np.float32)
        if action.kind == "box":  # numbers that are said stand behind an agent's own
            first = np.where(self.heard, team.action.widths, 0)[:, None] + np.arange(words)
            self._said_from = np.minimum(first, action.shape[0] - 1)[None]  # (1, N, M)
        rows = num_envs, team.num_agents
        # Where each number of an observation comes from: the world's, what is heard of all agents, or the zero behind.
        width, inbox = team.obs.shape[0], len(exchange.agents) * words
        source = np.full((team.num_agents, obs.shape[0]), width + inbox)
        for row, (n, own) in enumerate(zip(places, team.obs.widths, strict=True)):
            senders = np.asarray(exchange.senders[n])
            heard = (width + senders[:, None] * words + np.arange(words)).reshape(-1)
            source[row, : own + heard.size] = np.concatenate((np.arange(own), heard))
        self._from = (source + np.arange(team.num_agents)[:, None] * (width + inbox + 1)).reshape(-1)
        self._parts = np.zeros((*rows, width + inbox + 1), dtype=np.float32)
        self._width, self._inbox = width, inbox
        self._obs, self._next_obs = np.zeros((2, *rows, *obs.shape), dtype=np.float32)
        # Likewise for masks: every choice with any word; the entry behind is what does not exist.
        self._action_mask: Array | None = None
        self._next_action_mask: Array | None = None
        if masked:
            self._action_mask = np.broadcast_to(valid_choices(action), (*rows, action.num_choices)).copy()
            self._next_action_mask = self._action_mask.copy()
            choice = np.arange(action.num_choices) // self.each[:, None]
            exists = np.arange(action.num_choices) < np.array(action.widths)[:, None]
            source = np.where(exists, choice, team.action.num_choices)
            self._mask_from = (source + np.arange(team.num_agents)[:, None] * (team.action.num_choices + 1)).reshape(-1)
            self._mask_parts = np.zeros((*rows, team.action.num_choices + 1), dtype=bool)
        flags = [np.zeros(rows, dtype=bool) for _ in range(3)]
        self.step = TeamStep(
            self._obs,
            self._obs,
            np.zeros(rows, np.float32),
            flags[0],
            flags[1],
            flags[2],
            self._action_mask,
            self._action_mask,
        )

    def part(self, action: Array) -> tuple[Array, Array, Array]:
        """What the agents do, what they say ``(E, N, M)``, and how loudly ``(E, N)``."""
        action = np.asarray(action)
        shape = (*self._obs.shape[:2], *self.spec.action.shape)
        if action.shape != shape:
            raise EnvContractError(f"actions of team {self.spec.name!r}: expected shape {shape}, got {action.shape}")
        if self.spec.action.kind == "box":
            said = np.take_along_axis(action, self._said_from, axis=2) * self.heard[:, None]
            loud = np.broadcast_to(self.heard.astype(np.float32), action.shape[:2])
            return np.ascontiguousarray(action[..., : self.inner.shape[0]]), said.astype(np.float32), loud.copy()
        choice, word = np.divmod(action, self.each)
        loud = (self.heard & ((word > 0) | (not self.quiet))).astype(np.float32)
        return choice, self.one_hot[word] * self.heard[:, None], loud

    def _with_inbox(self, obs: Array, heard: Array, shown: Array, out: Array) -> None:
        """Observations with what is heard behind; nothing for those who are not there."""
        self._parts[..., : self._width] = obs
        inbox = heard[:, self.places].reshape(*obs.shape[:2], self._inbox)
        self._parts[..., self._width : -1] = inbox
        flat = self._parts.reshape(len(obs), -1)
        np.take(flat, self._from, axis=1, out=out.reshape(len(obs), -1))
        out *= shown[..., None]

    def _with_words(self, action_mask: Array | None, out: Array | None) -> None:
        """Masks of choices with words; where all that exists is legal they stay what they are."""
        if action_mask is not None and out is not None:
            self._mask_parts[..., :-1] = action_mask
            flat = self._mask_parts.reshape(len(action_mask), -1)
            np.take(flat, self._mask_from, axis=1, out=out.reshape(len(action_mask), -1))

    def show_successor(self, theirs: TeamStep, heard: Array, over: Array) -> None:
        """In copies ``over (E,)`` those whose episode ended see and hear it; in others all see what they act on now."""
        shown = np.where(over[:, None], theirs.terminated | theirs.truncated, theirs.acting)
        self._with_inbox(theirs.next_obs, heard, shown, self._next_obs)
        self._with_words(
            theirs.next_action_mask if theirs.next_action_mask is not None else theirs.action_mask,
            self._next_action_mask,
        )

    def show(self, theirs: TeamStep, heard: Array, ended: bool) -> None:
        """What there is to act on, and what came of the last action."""
        step = self.step
        self._with_inbox(theirs.obs, heard, theirs.acting, self._obs)
        self._with_words(theirs.action_mask, self._action_mask)
        step.reward, step.terminated, step.truncated = theirs.reward, theirs.terminated, theirs.truncated
        step.acting = theirs.acting
        step.next_obs = self._next_obs if ended else self._obs
        step.next_action_mask = self._next_action_mask if ended else self._action_mask
