"""A run as its folder tells it, at any time of its life: what is missing is empty, what is damaged is named."""

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from orchestrator import recipe as recipes
from orchestrator.config import Recipe, flatten
from orchestrator.folder import LIVING, RunFolder, state_of
from orchestrator.run_report import samples
from orchestrator.run_report.events import BEGINS, Event, clean, deaths, read_events
from orchestrator.run_report.reading import Lines, number, read_lines, seconds
from orchestrator.run_report.samples import Sample, Settled

METRICS_BYTES = 8 * 1024**2
"""Of metrics.jsonl, some 5,000 steps; of a longer one, steps at even distances."""
TIMELINE_BYTES = 8 * 1024**2
PATIENCE_S = 5.0
"""With a bucket that does not answer: it may be why the life ends, and the page tells more than the ledger."""
_ABSENT = "(none)"

T = TypeVar("T")
D = TypeVar("D")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    name: str
    folder: Path
    state: str
    """completed, stopped, failed, dead, starting, running, new, or unknown."""
    cause: str
    planned: int
    """Steps; 0 = unknown."""
    steps: tuple[Mapping[str, Any], ...]
    """Ascending; of a step that several lives trained, the last."""
    lives: tuple[int, ...]
    """First step that each life after the first has trained."""
    began: tuple[float, ...]
    """Unix seconds at which each life began, where the log says so."""
    timeline: tuple[Mapping[str, Any], ...]
    evaluations: tuple[Mapping[str, Any], ...]
    """The run's own, by step."""
    judgement: Mapping[str, Any]
    """evaluation.json of a pipeline; empty where there is none."""
    settings: Mapping[str, Any]
    """Dotted key -> value; empty where the recipe cannot be read."""
    changed: Mapping[str, tuple[Any, Any]]
    """Key -> (default, value) of what the recipe sets otherwise."""
    events: tuple[Event, ...]
    early: tuple[Sample, ...]
    late: tuple[Sample, ...]
    settled: Settled | None
    status: Mapping[str, Any]
    packages: Mapping[str, str]
    problems: tuple[str, ...]
    """What could not be read."""

    @property
    def living(self) -> bool:
        return self.state in LIVING


def read_run(folder: RunFolder) -> RunRecord:
    """All of it. Raises nothing for what a run, or its death, can leave behind."""
    problems: list[str] = []
    status = _attempt(folder.read_status, {}, problems)
    metrics = _lines(folder.metrics, METRICS_BYTES, problems)
    timeline = _lines(folder.path / "timeline.jsonl", TIMELINE_BYTES, problems)
    evaluations = _lines(folder.evaluations, METRICS_BYTES, problems)
    recipe = _attempt(lambda: recipes.load_dumped(folder.recipe), None, problems)
    early, late, settled = _ledger(recipe, folder, problems)
    rows = [row for row in metrics.rows if number(row, "step") is not None]
    state = _attempt(lambda: _state(folder, status), "unknown", problems)
    signs = [at for row in timeline.rows if (at := seconds(row)) is not None]
    said = _attempt(lambda: read_events(folder.logs), [], problems)
    events = sorted([*said, *deaths(said, last_signs=signs, dead=state == "dead")], key=lambda event: event.time_s)
    return RunRecord(
        name=folder.run_id,
        folder=folder.path,
        state=state,
        cause=clean(str(status.get("cause", ""))),
        planned=int(number(status, "steps") or (recipe.run.steps if recipe else 0)),
        steps=tuple(_by_step(rows)),
        lives=tuple(_lives(rows)),
        began=tuple(event.time_s for event in events if event.what == BEGINS),
        timeline=timeline.rows,
        evaluations=tuple(_by_step([row for row in evaluations.rows if number(row, "step") is not None])),
        judgement=_attempt(lambda: _json(folder.evaluation), {}, problems),
        settings=flatten(recipe) if recipe else {},
        changed=_attempt(lambda: changed_settings(recipe), {}, problems) if recipe else {},
        events=tuple(events),
        early=tuple(early),
        late=tuple(late),
        settled=settled,
        status=status,
        packages=_attempt(lambda: _packages(folder), {}, problems),
        problems=tuple(map(clean, problems)),
    )


def changed_settings(recipe: Recipe) -> dict[str, tuple[Any, Any]]:
    """What a recipe sets otherwise than the configuration's classes, whole lists of rewards and sources apart."""
    values = flatten(recipe)
    set_otherwise = _leaves("", recipe.model_dump(mode="json", exclude_defaults=True))
    return {key: (_default(recipe, key), values[key]) for key in sorted(set_otherwise) if key in values}


def _default(recipe: Recipe, key: str) -> Any:
    """Of the class that holds the key; `_ABSENT` where a recipe must name it."""
    holder: Any = recipe
    *parents, name = key.split(".")
    for parent in parents:
        holder = (
            holder[int(parent)]
            if isinstance(holder, Sequence) and not isinstance(holder, str)
            else _inner(holder, parent)
        )
        if holder is None:
            return _ABSENT
    fields = getattr(type(holder), "model_fields", {})
    if name not in fields or fields[name].is_required():
        return _ABSENT
    return fields[name].get_default(call_default_factory=True)


def _inner(holder: Any, name: str) -> Any:
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)


def _leaves(prefix: str, value: Any) -> list[str]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    found = [leaf for name, child in children for leaf in _leaves(f"{prefix}.{name}" if prefix else str(name), child)]
    return found or [prefix]


def _attempt(read: Callable[[], T], otherwise: D, problems: list[str]) -> T | D:
    """Of a folder that is half damaged the other half can still be told."""
    try:
        return read()
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        problems.append(str(error).splitlines()[0] if str(error) else type(error).__name__)
        return otherwise


def _lines(path: Path, budget_bytes: int, problems: list[str]) -> Lines:
    found = _attempt(
        lambda: read_lines(path, budget_bytes=budget_bytes), Lines(rows=(), damaged=0, sampled=False), problems
    )
    if found.damaged:
        problems.append(f"{path.name}: {found.damaged} damaged line{'s' * (found.damaged > 1)} left out")
    if found.sampled:
        problems.append(f"{path.name} is long: {len(found.rows)} of its lines were read")
    return found


def _state(folder: RunFolder, status: Mapping[str, Any]) -> str:
    alive = folder.driver_pid() is not None or bool(folder.other_host())
    return state_of(status, alive=alive)


def _by_step(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    found = {int(number(row, "step") or 0): row for row in rows}
    return [found[step] for step in sorted(found)]


def _lives(rows: Sequence[Mapping[str, Any]]) -> list[int]:
    return [
        int(number(row, "step") or 0)
        for before, row in itertools.pairwise(rows)
        if row.get("epoch") != before.get("epoch")
    ]


def _ledger(
    recipe: Recipe | None, folder: RunFolder, problems: list[str]
) -> tuple[list[Sample], list[Sample], Settled | None]:
    """First answers, last answers, settlements; none of them without a recipe, which says where the ledger is."""
    early = samples.kept(
        _attempt(lambda: samples.read_samples(folder), Lines(rows=(), damaged=0, sampled=False), problems)
    )
    if recipe is None:
        return early, [], None
    from orchestrator.stores import open_ledger  # the stores' clients

    hasty = recipe.model_copy(update={"store": recipe.store.model_copy(update={"retry_s": PATIENCE_S})})
    detokenize = samples.tokenizer_of(Path(recipe.model.path), folder.policy, folder.best)
    oldest, newest, settled = _attempt(
        lambda: samples.read_ledger(open_ledger(hasty, folder), problems=problems), (None, None, None), problems
    )
    if not early and oldest is not None:
        first = oldest
        early = _attempt(lambda: samples.samples_of(first, detokenize), [], problems)
    last = newest
    late = _attempt(lambda: samples.samples_of(last, detokenize), [], problems) if last is not None else []
    return early, late, settled


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(errors="replace"))
    except FileNotFoundError:
        return {}
    if not isinstance(found, dict):
        raise ValueError(f"{path.name}: is no JSON object")
    return found


def _packages(folder: RunFolder) -> dict[str, str]:
    """Of the newest life whose record lies in the run's own folder; a bucket is not asked for it."""
    for path in sorted((folder.path / "epochs").glob("*.json"), reverse=True):
        life = _json(path).get("body", {}).get("life", {})
        if isinstance(packages := life.get("packages"), dict):
            return {"python": str(life.get("python", "")), **{str(k): str(v) for k, v in packages.items()}}
    return {}
