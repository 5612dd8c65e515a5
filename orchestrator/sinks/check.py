"""What can be known of a recipe's sinks before the run starts: their packages, and a key where one is needed."""

import importlib.util
import netrc
import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

from orchestrator.sinks.config import SinksConfig

MODULES = ("tensorboard", "wandb", "mlflow")
"""By which each sink's package is imported; the extra of headrace has the same name."""
_WANDB = "https://api.wandb.ai"
_KEYS = ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE")


def problems(sinks: SinksConfig, environment: Mapping[str, str] = os.environ) -> list[str]:
    """One line `field = value: reason; remedy` each."""
    lines = [
        f'sinks.{name} = on: the package {name} is not installed; pip install "headrace[{name}]", or set sinks.{name}=null'
        for name in MODULES
        if getattr(sinks, name) is not None and importlib.util.find_spec(name) is None
    ]
    if sinks.wandb is not None and sinks.wandb.mode == "online" and not _has_key(environment):
        lines.append(
            "sinks.wandb.mode = online: there is no key, and nobody to ask for one; set WANDB_API_KEY in the environment, "
            "run `wandb login`, or set sinks.wandb.mode=offline"
        )
    return lines


def _has_key(environment: Mapping[str, str]) -> bool:
    if any(environment.get(name) for name in _KEYS):
        return True
    host = urlsplit(environment.get("WANDB_BASE_URL", _WANDB)).hostname or ""
    file = Path(environment.get("NETRC") or Path.home() / ".netrc")
    try:
        return netrc.netrc(file).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False
