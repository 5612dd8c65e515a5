"""`headrace trace`: a group's way from its issue to the version that it changed."""

import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace

from experience.ledger import Ledger
from orchestrator import recipe as recipes
from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.stores import LINEAGE, open_ledger
from orchestrator.trace import story
from orchestrator.trace.assemble import assemble
from orchestrator.trace.span import Trace
from orchestrator.trace.text import lines, table


def trace(folder: RunFolder, what: str, *, as_json: bool, otlp: str | None) -> None:
    """`what`: a sequence, a group's id, or step:N. `otlp`: where to send the spans as well."""
    recipe = recipes.load_dumped(folder.recipe)
    step, sequence = _asked(what, run_id=folder.run_id)
    traces = of_step(recipe, folder, step) if step is not None else [of_group(recipe, folder, sequence)]
    if as_json:
        groups = [one.as_dict() for one in traces]
        print(json.dumps(groups[0] if step is None else {"step": step, "groups": groups}, indent=1))
    else:
        width = shutil.get_terminal_size().columns
        print("\n".join(lines(traces[0], width=width) if step is None else _of_batch(traces, step, width=width)))
    if (
        otlp is not None
    ):  # last: the variable is often set for other programs, and a collector that is down hides no trace
        from orchestrator.trace.otlp import send  # OpenTelemetry

        sent = send(traces, otlp)
        if not as_json:
            print(f"sent {sent} spans")


def _asked(what: str, *, run_id: str) -> tuple[int | None, int]:
    """(step, 0) or (None, sequence). ValueError: neither."""
    if number := re.fullmatch(r"step:(\d{1,12})", what):
        return int(number[1]), 0
    group = re.fullmatch(r"(?:(?P<run>.+)/(?P<lineage>\d+)/)?(?P<sequence>\d{1,15})", what)
    if group is None:
        raise ValueError(f"GROUP = {what}: names no group; write its sequence (17), its id ({run_id}/0/17) or step:3")
    if group["run"] is not None and (group["run"], int(group["lineage"])) != (run_id, LINEAGE):
        raise ValueError(f"GROUP = {what}: is of another run; groups of this one are {run_id}/{LINEAGE}/…")
    return None, int(group["sequence"])


def of_step(recipe: Recipe, folder: RunFolder, step: int) -> list[Trace]:
    """Of all groups of its batch, in their order. ValueError: the ledger does not have it."""
    ledger = open_ledger(recipe, folder)
    record = ledger.read(step)
    if record is None:
        numbers = ledger.numbers()
        there = f"the ledger holds {numbers[0]} to {numbers[-1]}" if numbers else "no batch was committed yet"
        raise ValueError(f"GROUP = step:{step}: there is no such batch; {there}")
    groups = story.trained_groups(record)
    known = story.logged(folder, step=step, sequences=[scored.group.prompt.sequence for scored in groups])
    now = time.time()
    return [assemble(story.of_trained(scored, known[scored.group.prompt.sequence]), now=now) for scored in groups]


def of_group(recipe: Recipe, folder: RunFolder, sequence: int) -> Trace:
    """ValueError: nothing is known of it."""
    ledger, now = open_ledger(recipe, folder), time.time()
    return (
        _recorded(ledger, folder, sequence, now=now)
        or _in_flight(recipe, folder, sequence, now=now)
        or _recorded(ledger, folder, sequence, now=now)  # it may just have been committed
        or _left_open(ledger, folder, sequence, now=now)
    )


def _recorded(ledger: Ledger, folder: RunFolder, sequence: int, *, now: float) -> Trace | None:
    """None: no kept batch has it."""
    found = story.batch_of(ledger, sequence)
    if found is None:
        return None
    record, end = found
    known = story.logged(folder, step=record.number, sequences=[sequence])[sequence]
    for scored in story.trained_groups(record) if end.outcome == "trained" else ():
        if scored.group.prompt.sequence == sequence:
            return assemble(story.of_trained(scored, known), now=now)
    state = f"{end.outcome}, as batch {record.number} records: {end.reason}"
    told = story.of_issue(end, run_id=folder.run_id, state=state)
    return assemble(replace(told, notes=known.troubles), now=now)


def _in_flight(recipe: Recipe, folder: RunFolder, sequence: int, *, now: float) -> Trace | None:
    """None: no driver lives here, or the buffer does not know it."""
    if folder.driver_pid() is None:
        return None
    entry, end = story.in_flight(recipe, folder, sequence)
    if entry is not None:
        return assemble(story.of_entry(entry), now=now)
    if end is None:
        return None
    told = story.of_issue(end, run_id=folder.run_id, state=f"{end.outcome}, not yet in a batch: {end.reason}")
    return assemble(told, now=now)


def _left_open(ledger: Ledger, folder: RunFolder, sequence: int, *, now: float) -> Trace:
    """As the newest batch knows it. ValueError: it does not."""
    newest = ledger.read(ledger.newest())
    left = next((issue for issue in newest.open if issue.sequence == sequence), None) if newest else None
    if left is not None:
        state = "in flight when the run was last alive; a resume goes on with it"
        return assemble(story.of_issue(left, run_id=folder.run_id, state=state), now=now)
    if newest is not None and sequence < newest.next_sequence:
        first = ledger.numbers()[0]
        raise ValueError(f"GROUP = {sequence}: its batch is no longer kept; the ledger begins with batch {first}")
    known = (
        f"{newest.next_sequence} were when batch {newest.number} was committed" if newest else "no batch was committed"
    )
    raise ValueError(f"GROUP = {sequence}: no such group was issued; {known}")


def _arrived(trace: Trace) -> float:
    """When it had been scored; 0 where that is not known."""
    return max((span.end or 0.0 for span in trace.spans if span.name == "scored"), default=0.0)


def _of_batch(traces: Sequence[Trace], step: int, *, width: int) -> list[str]:
    """All groups of the batch in brief, then whole the one that the batch waited for."""
    last = max(traces, key=_arrived)
    header = f"step {step}: {len(traces)} groups"
    return [header, *table(traces, width=width), "", "the group that was scored last:", *lines(last, width=width)]
