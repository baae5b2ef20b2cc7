"""Shared fixtures; one thread everywhere, so that numbers do not depend on the machine's load."""

import os

os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import zlib

import pytest
import torch
from hypothesis import HealthCheck, settings

torch.set_num_threads(1)
# How long an example takes, or it takes to think one up, says how busy the machine is.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def _same_chance_every_time(request):
    """Tests that draw from torch's own stream draw the same in every run."""
    torch.manual_seed(zlib.crc32(request.node.nodeid.encode()))
