"""What the commands do, once parsed. Results go to standard output, progress and errors to standard error."""

import json
import os
import select
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from orchestrator import launch
from orchestrator import recipe as recipes
from orchestrator.console import Console, show_table
from orchestrator.disk import bytes_below, size
from orchestrator.folder import LIVING, RunFolder, state_of
from orchestrator.imports import BUILDER
from orchestrator.periodic.results import evaluation_lines
from orchestrator.run_report.write import write_at_end


def run(path: Path, overrides: list[str], *, as_json: bool, builder: str = BUILDER) -> None:
    recipe = recipes.load(path, overrides)
    folder = RunFolder(Path(recipe.run.root) / recipe.run.name)
    _tell_end(folder, launch.start(recipe, folder, fresh=True, quiet=as_json, builder=builder), as_json=as_json)


def resume(path: Path, overrides: list[str], *, as_json: bool) -> None:
    folder = find(path)
    recipe = launch.resumable(folder, overrides)
    _tell_end(folder, launch.start(recipe, folder, fresh=False, quiet=as_json), as_json=as_json)


def _tell_end(folder: RunFolder, ending: str, *, as_json: bool) -> None:
    status = folder.read_status()
    remedy = "" if ending == "completed" else f"; `headrace resume {folder.quoted}` goes on"
    _emit(status, as_json=as_json, text=f"{ending} at step {status['step']} of {status['steps']}{remedy}")


def plan(path: Path, overrides: list[str], *, as_json: bool) -> None:
    """--dry-run: every check that needs no process, and what would run."""
    from orchestrator import preflight

    recipe = recipes.load(path, overrides)
    summary = preflight.plan(recipe)
    folder = RunFolder(Path(recipe.run.root) / recipe.run.name)
    if folder.recipe.exists():
        line = f"run.name = {folder.run_id}: {folder.path} holds a run already; `headrace resume {folder.quoted}` goes on with it"
        summary = replace(summary, warnings=(*summary.warnings, f"{line}, and a new one needs another run.name"))
    _emit(summary.as_dict(), as_json=as_json, text="\n".join(summary.lines()))


def data(path: Path, overrides: list[str], *, as_json: bool) -> None:
    from orchestrator import preflight
    from orchestrator.data.preview import lines

    recipe = recipes.load(path, overrides)
    previews = preflight.preview(recipe)
    _emit({"data": previews}, as_json=as_json, text="\n".join(lines(previews)))


def status(path: Path, *, as_json: bool) -> None:
    folder = find(path)
    content = folder.read_status()
    if not content:
        raise ValueError(f"{folder.path}: the run has not started; remedy: `headrace resume {folder.quoted}`")
    content = {"run": folder.run_id, "state": "unknown"} | content
    if content["state"] in LIVING and folder.driver_pid() is None:
        content |= _without_driver(folder, content)
    content["disk_bytes"] = bytes_below(folder.path)
    content |= _elsewhere(folder)
    _emit(content, as_json=as_json, text="" if as_json else "\n".join(_readable_status(folder, content)))


def _readable_status(folder: RunFolder, content: Mapping[str, Any]) -> list[str]:
    try:
        return _status_lines(content)
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{folder.status}: is not as this version writes it ({type(error).__name__}: {error}); remedy: --json shows it as it is"
        ) from error


def _without_driver(folder: RunFolder, content: Mapping[str, Any]) -> dict[str, Any]:
    if host := folder.other_host():
        last = content.get("updated", "its start")
        return {"cause": f"if host {host} is alive, which its lock does not tell here; last word: {last}"}
    return {"state": "dead", "cause": f"its driver was killed; `headrace resume {folder.quoted}` goes on"}


def _elsewhere(folder: RunFolder) -> dict[str, Any]:
    """Where the blobs are that are not in the run's folder; nothing of them where the recipe cannot be read."""
    from orchestrator.runs import store_of

    where, count = store_of(folder)
    return ({"store": where} | ({} if count is None else {"store_bytes": count})) if where else {}


def _status_lines(content: Mapping[str, Any]) -> list[str]:
    cause = f": {content['cause']}" if content.get("cause") else ""
    lines = [f"{content['run']}  {content['state']}{cause}"]
    if "step" in content:
        lines.append(
            f"step {content['step']} of {content['steps']}, {content['committed']} batches committed, "
            f"version {content['published']} published, step {content['saved']} saved, epoch {content['epoch']}"
        )
        lines.append(f"trainer: {content['trainer']}")
    lines.append(_disk_line(content))
    if "live" in content:
        lines.append(f"live groups {content['live']}, streams {content['streams']}, restarts {content['restarts']}")
    for name, cursor in content.get("data", {}).items():
        lines.append(f"data {name}: pass {cursor['pass']}, place {cursor['place']}")
    if "evaluation" in content:
        lines += evaluation_lines(content["evaluation"])
    if content.get("waits"):
        lines.append(f"now: {content['waits']}")
    for name, worker in content.get("workers", {}).items():
        facts = ", ".join(
            f"{key} {value}"
            for key, value in worker.items()
            if key not in ("pid", "port", "node", "host") and value != ""
        )
        lines.append(f"{name}: {facts}")
    return lines


def _disk_line(content: Mapping[str, Any]) -> str:
    parts = [f"{size(content['disk_bytes'])} in its folder"]
    if "store" in content:
        held = f"{size(content['store_bytes'])} " if "store_bytes" in content else ""  # of a bucket nobody has counted
        parts.append(f"{held}in {content['store']}")
    if "written_bytes" in content:
        parts.append(f"{size(content['written_bytes'])} of versions, checkpoints and batches written so far")
    return f"disk: {', '.join(parts)}"


def stop(path: Path, *, now: bool, wait: bool) -> None:
    folder = find(path)
    pid = folder.driver_pid()
    if pid is None and (recipe := recipes.load_dumped(folder.recipe)).ray.existing:
        with folder.locked():
            from orchestrator.existing_ray import end_leftovers  # Ray

            ended = end_leftovers(recipe, folder)
        print(
            f"ended: {', '.join(ended) or 'nothing was left on the cluster'}; `headrace resume {folder.quoted}` goes on"
        )
        return
    if not pid:  # to signal process 0 is to signal the whole group of this one
        raise ValueError(f"{folder.path}: no driver is running here; nothing to stop")
    try:
        handle = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL if now else signal.SIGTERM)
    except ProcessLookupError:
        raise ValueError(f"{folder.path}: its driver has just ended; nothing to stop") from None
    print(f"{'killed' if now else 'asked to stop'}: driver process {pid}; `headrace resume {folder.quoted}` goes on")
    if wait:
        select.select([handle], [], [])  # readable once the process has ended; the driver has its own deadlines
        end = folder.read_status()
        print(f"{state_of(end, alive=False)} at step {end.get('step', 0)} of {end.get('steps', 0)}")


def audit(path: Path, *, as_json: bool) -> None:
    from orchestrator.audit import audit as balance

    folder = find(path)
    report = balance(recipes.load_dumped(folder.recipe), folder)
    _emit(report.as_dict(), as_json=as_json, text="\n".join(report.lines()))
    if not report.balanced:
        raise SystemExit(1)


def replay(path: Path, *, as_json: bool) -> None:
    from orchestrator.replay import replay as train_again

    folder = find(path)
    with folder.locked(), Console(quiet=as_json) as console:
        report = train_again(recipes.load_dumped(folder.recipe), folder, console=console)
    _emit(report.as_dict(), as_json=as_json, text="\n".join(report.lines()))
    if not report.identical:
        raise SystemExit(1)


def pipeline(path: Path, overrides: list[str], *, dry_run: bool, as_json: bool) -> None:
    from orchestrator.stages.pipeline import Pipeline, table
    from orchestrator.stages.stage import Stopped

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # like Ctrl-C, whatever stage it meets
    recipe, console = recipes.load(path, overrides), Console(quiet=as_json)
    whole = Pipeline(recipe)
    if dry_run:
        found = whole.plan()
        _emit(found, as_json=as_json, text="\n".join(found["lines"]))
        return
    try:
        done = whole.run(quiet=as_json, say=console.say)
    except Stopped:
        raise SystemExit(130) from None
    write_at_end(RunFolder(Path(recipe.run.root) / recipe.run.name), console)  # again: there is an evaluation now
    if as_json:
        _emit({"stages": [stage.as_dict() for stage in done]}, as_json=True, text="")
    else:
        show_table(table(done))
    if any(not gate["passed"] for stage in done for gate in stage.answer.get("gates", ())):
        raise SystemExit(1)


def sft(path: Path, overrides: list[str], *, dry_run: bool, restart: bool, as_json: bool) -> None:
    from orchestrator.stages import sft_inputs, sft_preview

    recipe = recipes.load(path, overrides)
    inputs = sft_inputs.examine(recipe)
    if dry_run:
        content = sft_preview.summary(recipe, inputs)
        _emit(content, as_json=as_json, text="\n".join(sft_preview.lines(content)))
        return
    for line in inputs.warnings:
        print(f"headrace: warning: {line}", file=sys.stderr)
    from orchestrator.stages.sft import fine_tune  # Ray

    with Console(quiet=as_json) as console:
        answer = fine_tune(recipe, inputs, console=console, restart=restart)
    if answer["finished"]:
        held_out = f", held-out loss {answer['held_out']['loss']:.4f}" if answer["held_out"] else ""
        text = f"wrote {recipe.model.path}: {answer['steps']} steps, loss {answer['loss']:.4f}{held_out}"
    else:
        text = f"stopped at step {answer['steps']} of {answer['total']}, with a checkpoint; the same command goes on"
    _emit(answer, as_json=as_json, text=text)
    if not answer["finished"]:
        raise SystemExit(130)


def export(path: Path, out: Path, *, version: str, as_json: bool) -> None:
    from orchestrator.export import export as write

    folder = find(path)
    answer = write(recipes.load_dumped(folder.recipe), folder, out, which=version)
    _emit(answer, as_json=as_json, text=f"wrote {out}: version {answer['version']}, digest {answer['digest']}")


def list_runs(roots: list[Path], *, as_json: bool) -> None:
    from orchestrator import runs as listing

    found = listing.list_runs(roots or [Path("runs")])
    if as_json:
        print(json.dumps([run.as_dict() for run in found], indent=1))
    else:
        show_table(listing.table(found))


def remove_runs(
    paths: list[Path],
    *,
    root: Path,
    state: str,
    older_than: str,
    yes: bool,
    leave_server: bool,
    ask: Callable[[str], bool],
) -> None:
    """`ask` a person, unless `yes`. ValueError: nothing to choose by, or one of the runs lives; then none is removed."""
    from orchestrator import removal
    from orchestrator import runs as listing

    if state and state not in listing.STATES:
        raise ValueError(f"--state = {state}: there is no such state; name one of {', '.join(listing.STATES)}")
    chosen = removal.Filter(state=state, older_than=removal.parse_age(older_than) if older_than else None)
    if not paths and chosen == removal.Filter():
        raise ValueError("runs rm: name a RUN, or choose with --state or --older-than")
    if paths:
        doomed = [path for path in map(removal.find_removable, paths) if removal.passes(chosen, path)]
    else:
        doomed = [Path(run.path) for run in listing.list_runs([root]) if chosen(run)]
    doomed = list(dict.fromkeys(doomed))
    for line in map(removal.describe, doomed):
        print(line)
    if not doomed:
        print("no run to remove")
    elif yes or ask(f"remove {len(doomed)} run{'s' * (len(doomed) > 1)} for good?"):
        for path in doomed:
            removal.remove(path, leave_server=leave_server)
            print(f"removed {path}")
    else:
        raise SystemExit(1)


def find(path: Path) -> RunFolder:
    """A run by its folder, or by its name below ./runs."""
    for candidate in (path, Path("runs") / path):
        if os.path.isfile(candidate / "recipe.yaml"):  # unlike Path.is_file, False for names that no file can have
            return RunFolder(candidate)
    raise ValueError(f"RUN = {path}: no run there and none at {Path('runs') / path}; remedy: name a run's folder")


def _emit(content: Mapping[str, Any], *, as_json: bool, text: str) -> None:
    print(json.dumps(content, indent=1) if as_json else text)
