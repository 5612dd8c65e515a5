"""All stages of a recipe in one go: what is done is passed over, what was interrupted goes on, what fails says how.

One Ray and one set of rank processes serve all stages. Between two stages nothing is in memory that matters: each leaves
its result whole in a folder, so that the same command goes on wherever the one before it ended.
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from orchestrator import logs
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.recipe import RecipeError
from orchestrator.stages.known import stages_of
from orchestrator.stages.session import Session
from orchestrator.stages.stage import Stage, State, read_result

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Done:
    """A stage whose result is there."""

    stage: str
    makes: str
    seconds: float
    """Of all lives that worked on it and came to note it."""
    here: bool
    """By this command; False: it was there already."""
    answer: Mapping[str, Any]
    """What came of it."""
    summary: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def table(done: Sequence[Done]) -> list[list[str]]:
    rows = [["stage", "seconds", "where", "what came of it"]]
    rows += [[one.stage, f"{one.seconds:.1f}", one.makes, one.summary] for one in done]
    return [*rows, ["all", f"{sum(one.seconds for one in done):.1f}", "", ""]]


class Pipeline:
    """examine(), then run()."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe, self._stages = recipe, stages_of(recipe)
        self._folder = RunFolder(Path(recipe.run.root) / f".{recipe.run.name}.pipeline")
        self._notes = self._folder.path / "seconds.json"

    def examine(self) -> dict[str, State]:
        """The state of each stage, once all that is left to do has passed its checks. RecipeError: all that is wrong."""
        states: dict[str, State] = {}
        lines: list[str] = []
        for stage in self._stages:
            try:
                states[stage.name] = stage.state()
                if states[stage.name] != "done":
                    stage.check()
            except RecipeError as error:
                lines += error.lines
            except ValueError as error:
                lines.append(str(error))
        if lines:
            raise RecipeError(list(dict.fromkeys(lines)))  # two stages may find the same
        return states

    def plan(self) -> dict[str, Any]:
        """--dry-run: what is left to do, in `lines` for people, and what the run amounts to."""
        from orchestrator import preflight
        from orchestrator.stages.known import before_stages

        states = self.examine()
        words = {"done": "is there", "begun": "goes on", "new": "to do"}
        lines = [f"{stage.name}: {words[states[stage.name]]}, {stage.makes}" for stage in self._stages]
        run = preflight.plan(before_stages(self._recipe))
        return {"stages": states, "run": run.as_dict(), "lines": [*lines, *run.lines()]}

    def run(self, *, quiet: bool, say: Callable[[str], None]) -> list[Done]:
        """All stages in order. Stopped, RunFailed, ValueError: `say` has told in which, and how to go on."""
        with self._folder.locked():
            self._folder.create()
            logs.configure(self._folder.logs, run=self._folder.run_id, worker="driver")
            self.examine()
            with Session() as session:
                return [self._one(stage, session, quiet=quiet, say=say) for stage in self._stages]

    def _one(self, stage: Stage, session: Session, *, quiet: bool, say: Callable[[str], None]) -> Done:
        notes = read_result(self._notes)
        state = stage.state()  # again: it may hang on what the stages before it have made
        seconds = notes.get(stage.name, 0.0) if state != "new" else 0.0
        if state == "done":
            say(f"[{stage.name}] {stage.makes} is there already")
            return self._done(stage, seconds, here=False)
        say(f"[{stage.name}] {'goes on' if state == 'begun' else 'begins'}: {stage.makes}")
        began = time.monotonic()
        try:
            stage.carry_out(session, quiet)
        except BaseException:
            say(f"[{stage.name}] ended before its time; the same command goes on from there")
            raise
        finally:
            seconds += time.monotonic() - began
            self._folder.write_json(self._notes, notes | {stage.name: seconds})
        return self._done(stage, seconds, here=True)

    def _done(self, stage: Stage, seconds: float, *, here: bool) -> Done:
        answer = stage.recall()
        return Done(
            stage=stage.name,
            makes=str(stage.makes),
            seconds=round(seconds, 1),
            here=here,
            answer=answer,
            summary=stage.summary(answer) if answer else "",
        )
