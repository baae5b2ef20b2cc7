"""Channels: who hears whom, what happens to messages on their way, and what agents learn to say."""

from marl.channels.hub import Hub
from marl.channels.link import Link
from marl.channels.medium import Inbox, Tamper
from marl.channels.net import ChannelNet, policy_net
from marl.channels.overheard import Line, Overheard, Shown
from marl.channels.speech import DIAL, Channel, CommNet, GraphAttention, IC3Net, TarMAC

__all__ = [
    "DIAL",
    "Channel",
    "ChannelNet",
    "CommNet",
    "GraphAttention",
    "Hub",
    "IC3Net",
    "Inbox",
    "Line",
    "Link",
    "Overheard",
    "Shown",
    "Tamper",
    "TarMAC",
    "policy_net",
]
