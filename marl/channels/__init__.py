"""Channels: who hears whom, what happens to messages on their way, and what agents learn to say."""

from marl.channels.hub import Hub
from marl.channels.link import Link
from marl.channels.medium import Inbox, Tamper
from marl.channels.net import ChannelNet, policy_net
from marl.channels.overheard import Line, Overheard, Shown
from marl.channels.speech import DIAL, Channel, CommNet, GraphAttention, IC3Net, TarMAC
from marl.channels.topology import Complete, Dynamic, Graph, Grid, Groups, Nearest, Ring, Star, Where, Within

__all__ = [
    "DIAL",
    "Channel",
    "ChannelNet",
    "CommNet",
    "Complete",
    "Dynamic",
    "Graph",
    "GraphAttention",
    "Grid",
    "Groups",
    "Hub",
    "IC3Net",
    "Inbox",
    "Line",
    "Link",
    "Nearest",
    "Overheard",
    "Ring",
    "Shown",
    "Star",
    "Tamper",
    "TarMAC",
    "Where",
    "Within",
    "policy_net",
]
