"""Whether nodes reach one another at ports that nobody has named before, as ranks and engines do: firewalls often forbid it."""

import socket
from collections.abc import Mapping, Sequence

CONNECT_S = 3.0
"""For a connection within a cluster, which takes milliseconds; a firewall that drops it says nothing at all."""
ENOUGH = 3
"""Nodes that cannot be reached, after which a node gives up: the rest would only take as long again each."""


def listening(address: str) -> socket.socket:
    """At a free port of this machine's address; closed by whoever asked."""
    return socket.create_server((address, 0), family=socket.AF_INET6 if ":" in address else socket.AF_INET)


def unreached(targets: Mapping[str, int], *, timeout_s: float = CONNECT_S) -> list[str]:
    """Addresses of `targets` (address -> port) that take no connection from here; at most ENOUGH."""
    failed: list[str] = []
    for address, port in targets.items():
        try:
            socket.create_connection((address, port), timeout=timeout_s).close()
        except OSError:
            failed.append(address)
        if len(failed) == ENOUGH:
            break
    return failed


def shown(pairs: Mapping[str, Sequence[str]]) -> str:
    """Who does not reach whom, empty = nobody."""
    return "; ".join(f"{one} does not reach {', '.join(others)}" for one, others in pairs.items() if others)
