"""Channels: communication topologies, links that delay or lose messages, and learned messages."""

from marl.channels.hub import Hub
from marl.channels.link import Link
from marl.channels.link_simulator import Inbox, Tamper
from marl.channels.net import ChannelNet, policy_net
from marl.channels.speech import DIAL, Channel, CommNet, GraphAttention, IC3Net, TarMAC
from marl.channels.statistics import ActionMessageStats, ChannelStats, MessageSlot

__all__ = [
    "DIAL",
    "ActionMessageStats",
    "Channel",
    "ChannelNet",
    "ChannelStats",
    "CommNet",
    "GraphAttention",
    "Hub",
    "IC3Net",
    "Inbox",
    "Link",
    "MessageSlot",
    "Tamper",
    "TarMAC",
    "policy_net",
]
