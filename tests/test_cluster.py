"""Ray's clusters: what is said where none is to be had."""

from __future__ import annotations

import socket
import sys

import pytest

from marl.cluster import joined
from marl.types import ConfigError, ResourceError


def test_without_ray_one_line_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"ray is not installed: pip install 'marl-system\[ray\]'"), joined():
        pass


@pytest.mark.parametrize("address", ["nonsense", "host:", ":6379", "host:70000", "ray://host"])
def test_an_address_is_host_and_port(address):
    pytest.importorskip("ray")
    with pytest.raises(ConfigError, match="expected auto, HOST:PORT"), joined(address):
        pass


def test_where_nobody_listens_it_is_said_at_once():
    pytest.importorskip("ray")
    with socket.socket() as taken:  # bound, so nobody else's, and nobody listens there
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        address = f"127.0.0.1:{port}"
        with pytest.raises(ResourceError, match=f"no cluster answers at '{address}'"), joined(address):
            pass
