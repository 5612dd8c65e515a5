"""One real run that is looked at from outside while it lives and after its end, and the Prometheus that watches it."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from canary import ENVIRONMENT
from loop_commands import Life, living
from prometheus_server import Prometheus, running
from prometheus_shipped import RULES

NAME = "watched"
STEPS = 40
HOLD = f"evaluation.fetched@{STEPS}"
"""Here the evaluator waits, with all other processes idle, until the tests that look at a living run are through."""
SCRAPE_S = 1
JUDGE_S = 5
"""Between looks of the rules that ship: all alerts wait for longer."""
LIVE_STEP = 6
"""From here on a run counts as at work: every stage has handed on something, and the first evaluation is asked for."""
CHANGES: dict[str, Any] = {
    "run": {"name": NAME, "steps": STEPS},
    "generation": {"group_size": 8, "max_tokens": 32},
    "training": {"checkpoint": {"interval_steps": 8}},
    "pacing": {"batch_groups": 8},
    "evaluation": {
        "path": "data/heldout.jsonl",
        "limit": 16,
        "interval_steps": 4,
        "judge": {"function": "score_cluster.functions:character_accuracy"},
    },
    "sinks": {"tensorboard": {}},
}
"""To the recipe of conftest.py: longer answers, more of them and more steps, and evaluation beside them."""


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A run that is at work or over, its folder, and the server that scrapes it every second."""

    life: Life
    prometheus: Prometheus
    started: float
    """Unix seconds, before the command was given."""
    said: list[str]
    """What the command wrote to its output and to its errors, once it has ended."""

    @property
    def run(self) -> Path:
        return self.life.run

    def is_live(self) -> bool:
        return self.life.process.poll() is None

    def wait_until_at_work(self) -> None:
        self.life.until(
            f"step {LIVE_STEP}, and a scrape of every process",
            lambda: self.life.status().get("step", 0) >= LIVE_STEP and self._all_scraped(),
        )

    def wait_for_the_end(self) -> None:
        """Let it go on to its own end."""
        if self.is_live():
            self.life.until("its status", lambda: self.life.status())
            (self.run / "faults").mkdir(exist_ok=True)
            self.life.go_on(HOLD)
            code, out, err = self.life.ends()
            self.said.extend((out, err))
            assert code == 0, f"exit {code}\n{out}\n{err}"

    def _all_scraped(self) -> bool:
        """Of the targets that the run names now, each has answered a scrape."""
        targets = json.loads((self.run / "targets.json").read_text())
        workers = {target["labels"]["worker"] for target in targets}
        up = self.prometheus.query(f'up{{run="{NAME}"}} == 1')
        return (
            {"driver", "eval-0", "gen-0", "rank-0", "rank-1", "score-0"}
            <= workers
            <= {s["metric"]["worker"] for s in up}
        )


@contextmanager
def watching(workplace: Path) -> Iterator[Watched]:
    """Start the command and the server; both are gone afterwards, whatever the tests made of it."""
    recipe = workplace / f"{NAME}.yaml"
    recipe.write_text(yaml.safe_dump(_merged(yaml.safe_load((workplace / "small.yaml").read_text()), CHANGES)))
    run = workplace / "runs" / NAME
    started = time.time()
    with (
        running(_configuration(workplace, targets=run / "targets.json")) as server,
        living("run", recipe.name, run=run, faults=f"{HOLD}:pause", environment=ENVIRONMENT, cwd=workplace) as life,
    ):
        yield Watched(life=life, prometheus=server, started=started, said=[])


def _configuration(folder: Path, *, targets: Path) -> Path:
    """Scrape what the run says every second, by the rules that ship; the file of targets comes with the run."""
    found = {"files": [str(targets)], "refresh_interval": f"{SCRAPE_S}s"}
    scrape = {"job_name": "headrace", "file_sd_configs": [found]}
    path = folder / "prometheus.yml"
    every = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{JUDGE_S}s"}
    path.write_text(yaml.safe_dump({"global": every, "rule_files": [RULES], "scrape_configs": [scrape]}))
    return path


def _merged(recipe: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A recipe with these values in place of its own, section by section."""
    found = dict(recipe)
    for key, value in changes.items():
        found[key] = _merged(recipe.get(key, {}), value) if isinstance(value, dict) else value
    return found
