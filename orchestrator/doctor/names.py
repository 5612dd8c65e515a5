"""Names that a run relies on: localhost must be this machine, and on a cluster the machine's own name must not be."""

import ipaddress
import socket
from collections.abc import Callable, Iterator

from orchestrator.doctor.finding import Finding, error, note, ok

Resolve = Callable[[str], list[str]]


def resolved(name: str) -> list[str]:
    """Addresses, without their zone; OSError: nobody knows the name."""
    return sorted({str(one[4][0]).partition("%")[0] for one in socket.getaddrinfo(name, None)})


def check_localhost(resolve: Resolve = resolved) -> Iterator[Finding]:
    try:
        found = resolve("localhost")
    except OSError as failure:
        found, cause = [], f" ({failure.strerror})"
    else:
        cause = ""
    if found and all(ipaddress.ip_address(one).is_loopback for one in found):
        yield ok("localhost", " ".join(found))
    else:
        yield error(
            "localhost",
            f"{' '.join(found) or 'unknown'}{cause}",
            "servers of a run listen on 127.0.0.1, and libraries look for them by this name",
            "add the line `127.0.0.1 localhost` to /etc/hosts",
        )


def check_host_name(resolve: Resolve = resolved) -> Iterator[Finding]:
    name = socket.gethostname()
    why = "on a cluster the other nodes would be told an address that is theirs; a run on this machine alone does not mind"
    remedy = f"give {name} its outer address in /etc/hosts or DNS, and `ray start --node-ip-address`"
    try:
        found = resolve(name)
    except OSError as failure:
        yield note("host name", f"{name}: unknown ({failure.strerror})", why, remedy)
        return
    if all(ipaddress.ip_address(one).is_loopback for one in found):
        yield note("host name", f"{name}: {' '.join(found)}", why, remedy)
    else:
        yield ok("host name", f"{name}: {' '.join(found)}")
