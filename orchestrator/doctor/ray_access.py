"""Who may use the Ray that a run lives in: its token, and where its dashboard, which takes jobs, listens."""

import ipaddress
from collections.abc import Iterator

from orchestrator.config import Recipe
from orchestrator.doctor.finding import Finding, ok, warning


def check_access(recipe: Recipe) -> Iterator[Finding]:
    """Of a cluster that this process has joined."""
    from ray._private.authentication.authentication_utils import is_token_auth_enabled
    from ray._private.worker import get_dashboard_url

    yield from judge_token(is_token_auth_enabled(), address=recipe.ray.address)
    yield from judge_dashboard(get_dashboard_url() or "")


def check_own(recipe: Recipe) -> Iterator[Finding]:
    """Of a Ray that the run starts for itself: see orchestrator.cluster."""
    yield ok(
        "ray", f"ray.address = {recipe.ray.address}: one of the run's own, on loopback, by token, without dashboard"
    )


def judge_token(on: bool, *, address: str) -> Iterator[Finding]:
    if on:
        yield ok("ray token", "asked for")
    else:
        yield warning(
            "ray token",
            f"{address} asks for none",
            "whoever reaches its ports runs code there, as the user that started it, with all its credentials",
            "export RAY_AUTH_MODE=token and one token (ray get-auth-token --generate) on every node, then ray start again",
        )


def judge_dashboard(url: str) -> Iterator[Finding]:
    """`url`: host:port, empty = there is none."""
    host = url.rpartition(":")[0].strip("[]")
    if not host:
        yield ok("ray dashboard", "off")
    elif _on_loopback(host):
        yield ok("ray dashboard", f"{url}, on loopback")
    else:
        yield warning(
            "ray dashboard",
            f"listens on {url}",
            "it takes jobs and shows logs, to all who reach that address",
            "ray start --head --dashboard-host=127.0.0.1, and an SSH tunnel to it",
        )


def _on_loopback(host: str) -> bool:
    """A name is told from an address, and not looked up: another machine may know it otherwise."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
