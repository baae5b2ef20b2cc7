"""Learned messages of one's own: what agents say, and what a listener makes of what it hears."""

from __future__ import annotations

from tests.extension.support import trains_saves_loads_resumes

SOURCE = '''
import torch
from torch import nn

import marl
from marl.extend import Channel, Inbox, MessageModule, StackedLinear, config, register, setting
from tests.support.tiny import Hear


@register
@config
class Loudest(Channel):
    """The largest of what is heard, number by number."""

    size: int = setting(4, "numbers of a message", least=1)

    def build(self, owner, width, generators):
        return LoudestSpeech(owner, width, self.size, self.rounds, generators)


class LoudestSpeech(MessageModule):
    def __init__(self, owner, width, size, rounds, generators):
        super().__init__()
        self.size = self.summary = size
        self.say = StackedLinear(owner, width, size, generators)
        self.mix = nn.ModuleList(StackedLinear(owner, width + size, width, generators) for _ in range(rounds))

    def speak(self, turn, h):
        return self.say(h), None

    def hear(self, query, inbox: Inbox):
        heard = (inbox.weight > 0).unsqueeze(-1)  # (B, R, N, 1)
        message = inbox.message.expand(-1, heard.shape[1], -1, -1)
        return torch.where(heard, message, -8.0).amax(dim=2)

    def update(self, turn, h, c):
        return torch.tanh(self.mix[turn](torch.cat((h, c), dim=-1)))


def make():
    channel = Loudest(size=3, rounds=1, topology=marl.topology.Ring())
    return {"agents": marl.ippo(rollout=8, minibatches=1, channel=channel), "env": Hear, "num_envs": 2}
'''


def test_a_channel_of_ones_own(tmp_path):
    came = trains_saves_loads_resumes(tmp_path, SOURCE)
    speech = came.system.learners[0].policy_net.speech
    assert type(speech) is came.module.LoudestSpeech
    assert came.system.agents.channel == came.module.Loudest(
        size=3, rounds=1, topology=came.module.marl.topology.Ring()
    )
    with came.system as system:
        report = system.evaluate(2, decentralized=True)
        assert report.returns == system.evaluate(2).returns  # every agent alone, through the messages that it hears
