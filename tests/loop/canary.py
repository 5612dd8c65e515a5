"""Secrets wherever a user can put one, and the search for them wherever somebody could look.

Each is a word of its own, so that a leak names its source.
"""

from collections.abc import Iterable
from pathlib import Path

import psutil

SECRETS = {
    name: f"canary{index:02}7f3a91c4e5d2b608"
    for index, name in enumerate(
        (
            "HEADRACE_REDIS_PASSWORD",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "HF_TOKEN",
            "HUGGING_FACE_HUB_TOKEN",
            "WANDB_API_KEY",
            "MLFLOW_TRACKING_PASSWORD",
            "MLFLOW_TRACKING_TOKEN",
            "JUDGE_TOKEN",
            "OTEL_EXPORTER_OTLP_HEADERS",
            "RAY_AUTH_TOKEN",
        )
    )
}
"""By environment variable."""
ENVIRONMENT = SECRETS | {"OTEL_EXPORTER_OTLP_HEADERS": f"authorization={SECRETS['OTEL_EXPORTER_OTLP_HEADERS']}"}
OWN = ("password", "redis.conf")
"""Below redis/ in a run's folder: where its own server's password stands, for its owner alone."""


def seen_in(content: bytes, where: str, *more: str) -> list[str]:
    """`where: variable` of each secret in it; `more`: other secrets."""
    found = [f"{where}: {name}" for name, secret in SECRETS.items() if secret.encode() in content]
    return found + [f"{where}: one of its own" for secret in more if secret.encode() in content]


def seen_below(folder: Path, *more: str) -> list[str]:
    """The same of every file, and of its name; what disappears meanwhile is passed over."""
    found = []
    for path in sorted(folder.rglob("*")):
        found += seen_in(str(path).encode(), str(path), *more)
        if path.is_file() and not (path.parent.name == "redis" and path.name in OWN):
            try:
                found += seen_in(path.read_bytes(), str(path), *more)
            except FileNotFoundError:
                continue
    return found


def seen_in_command_lines(processes: Iterable[psutil.Process], *more: str) -> list[str]:
    found = []
    for process in processes:
        try:
            words = [process.name(), *process.cmdline(), process.cwd()]
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        found += seen_in("\0".join(words).encode(), f"process {words[:2]}", *more)
    return found
