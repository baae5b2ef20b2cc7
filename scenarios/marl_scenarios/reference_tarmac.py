"""Two agents, each knowing only the other's goal, tell each other by messages that they learn, on the compiled twin."""

import dataclasses

import marl
from marl_scenarios import reference

scenario = dataclasses.replace(
    reference.scenario,
    name="reference_tarmac",
    about="tell each other where to go by learnt messages (native, 2 agents, MAPPO with TarMAC)",
    env="marl/reference-v0",
    agents=dataclasses.replace(reference.scenario.agents, channel=marl.TarMAC(rounds=1)),
    message_entries=(),
    expect="about -21, sum of both agents (random: -56; the best without a message is -34.7)",
    extra=None,
)
