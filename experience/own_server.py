"""A server of the user's own, looked at before a run begins: may the run's groups live there, and how safe are they?

Refused is what would lose or stop the run (an old version, a replica, cluster mode, an eviction policy, missing rights);
warned of is what lasts less than it should.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

import redis

from experience.buffer import BufferRefused
from experience.redis_client import Address, RedisClient

OLDEST_MAJOR = 7
"""The scripts' flags, and permissions inside scripts, came with Redis 7.0."""


def examine(address: Address, *, run_id: str, retry_s: float) -> tuple[str, ...]:
    """Warnings, `reason; remedy` each. BufferRefused: no run may use it. BufferUnavailable: no answer for `retry_s`."""
    client = RedisClient(address.connect, run_id=run_id, retry_s=retry_s)
    try:
        facts = client.ask(_facts)
        refusal = _refusal(facts)
        if refusal:
            raise BufferRefused(f"{client.url}: {refusal}")
        _check_rights(client)
        policy = client.ask(_fsync_policy) if facts["aof_enabled"] else None
        return tuple(filter(None, (unencrypted(address.url), _durability(facts, policy))))
    except redis.ResponseError as error:  # a database that it does not have, a command that was renamed
        raise BufferRefused(
            f"{client.url} refuses what a run needs: {error}; correct the address, or its settings"
        ) from error
    finally:
        client.close()


def _facts(server: redis.Redis) -> dict[str, Any]:
    """By name, of the four sections of INFO that matter."""
    return {
        name: value
        for section in ("server", "replication", "memory", "persistence")
        for name, value in server.info(section).items()
    }


def _refusal(facts: Mapping[str, Any]) -> str:
    """Why no run may use the server; empty = it may. Valkey calls itself the Redis that it is compatible with."""
    version = str(facts["redis_version"])
    if int(version.partition(".")[0]) < OLDEST_MAJOR:
        return f"redis_version = {version}: Redis {OLDEST_MAJOR}.0 or newer, or Valkey, is needed; name another server"
    mode = facts.get("redis_mode") or facts.get("server_mode", "standalone")
    if mode != "standalone":
        return (
            f"its mode is {mode}: clients follow no redirections, and speak to one server; name a standalone server, or "
            "the primary itself where Sentinel watches it"
        )
    if facts["role"] != "master":
        primary = f"{facts.get('master_host')}:{facts.get('master_port')}"
        return f"role = replica of {primary}: it takes no writes; name the primary"
    policy = facts["maxmemory_policy"]
    if policy != "noeviction":
        return f"maxmemory-policy = {policy} may evict groups; set it to noeviction"
    return ""


def _fsync_policy(server: redis.Redis) -> str | None:
    """appendfsync, or None where CONFIG is denied to us, as managed services do."""
    try:
        return str(server.config_get("appendfsync")["appendfsync"])
    except (redis.ResponseError, KeyError):
        return None


def _durability(facts: Mapping[str, Any], policy: str | None) -> str:
    again = "what is lost is generated again, and nothing is trained twice"
    if not facts["aof_enabled"]:
        return (
            "appendonly = no: a restart of the server loses the groups in flight, or brings back old ones from its last "
            f"snapshot; {again}; set appendonly yes and appendfsync always there"
        )
    if policy is None:
        return (
            "appendfsync cannot be read (CONFIG GET is denied): with anything but always, acknowledged writes may be lost; "
            f"{again}; allow +config|get, or make sure of it"
        )
    if policy != "always":
        return (
            f"appendfsync = {policy}: the server postpones the write itself while a slow fsync runs, so that its mere death "
            f"loses acknowledged writes (349 of 350 when measured); {again}; set appendfsync always there"
        )
    return ""


def unencrypted(url: str) -> str:
    """A warning, or empty. TLS is for networks: a socket and a loopback address stay on the machine."""
    parts = urlsplit(url)
    host = parts.hostname
    if parts.scheme != "redis" or host is None or host == "localhost":
        return ""
    try:
        if ipaddress.ip_address(host).is_loopback:
            return ""
    except ValueError:  # a name
        pass
    return f"password, prompts and completions cross the network to {host} unencrypted; use rediss:// where it is not private"


def _check_rights(client: RedisClient) -> None:
    """Every command of our scripts, tried once on a key that is then removed, as the user that we are.

    BufferRefused names all that are missing: found one by one in a run's life, each would end it.
    """
    client.ask(lambda server: server.eval("return 1", 0))  # EVALSHA alone would do until the server starts anew
    missing = [name.decode() for name in client.run("rights")]
    if missing:
        raise BufferRefused(
            f"{client.url}: our user may not run {', '.join(missing)} on {client.prefix}*; "
            "give it the rights that docs/operating.md lists"
        )
