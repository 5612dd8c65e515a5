"""What `headrace reward …` does, once parsed. Results go to standard output, progress and errors to standard error."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator import recipe as recipes
from orchestrator.console import Console
from score_cluster.reward_config import Precision


def train(path: Path, overrides: list[str], *, dry_run: bool, restart: bool, as_json: bool) -> None:
    from orchestrator.stages.reward_inputs import examine

    recipe = recipes.load(path, overrides)
    inputs = examine(recipe)
    if dry_run:
        _emit(inputs.as_dict(), as_json=as_json, text="\n".join(inputs.lines()))
        return
    for line in inputs.warnings:
        print(f"headrace: warning: {line}", file=sys.stderr)
    from orchestrator.stages.reward import summary, train_reward  # Ray

    with Console(quiet=as_json) as console:
        answer = train_reward(recipe, inputs, console=console, restart=restart)
    if not answer["finished"]:
        text = f"stopped at step {answer['step']} of {answer['total']}, with a checkpoint; the same command goes on"
        _emit(answer, as_json=as_json, text=text)
        raise SystemExit(130)
    lines = [f"wrote {answer['out']}: {summary(answer)}", answer["advice"], *answer["warnings"]]
    _emit(answer, as_json=as_json, text="\n".join(lines))


def score(
    folder: Path,
    file: Path,
    *,
    out: Path | None,
    precision: Precision,
    chat_template: bool | None,
    as_json: bool,
) -> None:
    """Rows to `out` or, without it and without --json, to standard output; the summary to whichever is left."""
    from orchestrator.stages import reward_score

    if out is not None:
        _check_out(out, file)
    with Console(quiet=as_json) as console:
        found = reward_score.score(folder, file, precision=precision, chat_template=chat_template, console=console)
        rows = "".join(json.dumps(line) + "\n" for line in found.lines)
        if out is not None:
            out.write_text(rows, encoding="utf-8")
        elif not as_json:
            sys.stdout.write(rows)
            console.say(reward_score.text(found))
            return
    _emit(found.summary, as_json=as_json, text=reward_score.text(found))


def _check_out(out: Path, file: Path) -> None:
    """Before minutes of scoring."""
    if not out.parent.is_dir():
        raise ValueError(f"--out = {out}: there is no folder {out.parent}; remedy: make it")
    if out.is_dir() or not os.access(out.parent, os.W_OK):
        raise ValueError(f"--out = {out}: cannot be written; remedy: name a file in a folder that takes it")
    if out.exists() and file.exists() and out.samefile(file):
        raise ValueError(f"--out = {out}: is the file that is scored; remedy: name another")


def _emit(content: Mapping[str, Any], *, as_json: bool, text: str) -> None:
    print(json.dumps(content, indent=1) if as_json else text)
