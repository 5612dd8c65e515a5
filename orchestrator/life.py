"""A life of a run, from taking it over to letting it go.

Order matters: the lock (one driver on this machine), then the epoch (one driver anywhere), then the cluster (ending what
an earlier life left in it), then the server (adopting what an earlier life left running), then the fences, and only then what the ledger says is missing.
"""

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Literal

import redis

from experience.buffer import ExperienceBuffer, Fenced
from experience.ledger import Ledger
from experience.recovery import check_restored, lost_issues, reissues
from experience.redis_buffer import RedisBuffer
from experience.schema import BatchRecord
from experience.server import EmbeddedServer, ServerFailed
from orchestrator import faults, logs
from orchestrator.admission import Admission
from orchestrator.cluster import open_cluster
from orchestrator.config import Recipe
from orchestrator.console import Console
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.imports import BUILDER
from orchestrator.metrics_server import serving
from orchestrator.periodic.evaluation import PeriodicEvaluation
from orchestrator.prompts import PromptIssuer
from orchestrator.run import Ending, Run, Signals
from orchestrator.sinks.sinks import open_sinks
from orchestrator.stages.session import Session
from orchestrator.stores import LINEAGE, claim_name, open_buffer, open_ledger, open_server, open_store
from orchestrator.topology import Topology
from orchestrator.versions import life_record
from orchestrator.vitals import Vitals, new_clocks
from weightstore.adopt import adopt_newest
from weightstore.blobs import BlobStore, FileBlobStore
from weightstore.epochs import claim_epoch, newest_epoch
from weightstore.manifest import WeightVersion
from weightstore.pins import adopt_pins

log = logging.getLogger(__name__)

SERVER_LOOK_S = 2.0
"""Between looks whether the embedded server lives: far below the clients' retry budget."""

OUTSIDE = (OSError, Fenced, ServerFailed)
"""What can befall a run from outside: disk, store and server (the buffer's error is an OSError), a newer life. Each says
so in its one line, so it is a cause and no internal error."""


def live(
    recipe: Recipe,
    folder: RunFolder,
    *,
    issuer: PromptIssuer,
    console: Console,
    builder: str = BUILDER,
    session: Session | None = None,
) -> Ending:
    """Drive the run until it is completed or stopped. RunFailed: it cannot go on (and can be resumed all the same).

    `builder`: see orchestrator.imports. `session`: whose cluster it lives in, and whose ranks it takes over.
    """
    began = time.monotonic()
    logs.configure(folder.logs, run=folder.run_id, worker="driver")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # before the loop asks for a clean stop, end like Ctrl-C
    status = {"run": folder.run_id, "state": "starting", "cause": "", "steps": recipe.run.steps, "pid": os.getpid()}
    status["written_bytes"] = folder.written_bytes()
    folder.write_json(folder.status, status)  # what an earlier life said ends here
    try:
        return _live(recipe, folder, began=began, issuer=issuer, console=console, builder=builder, session=session)
    except OUTSIDE as error:
        _end_early(folder, "failed", str(error))
        raise RunFailed(str(error)) from error
    except BaseException as error:
        _end_early(folder, "stopped" if isinstance(error, KeyboardInterrupt) else "failed", str(error))
        raise


def _end_early(folder: RunFolder, state: str, cause: str) -> None:
    """Leave the cause in status.json, unless the run's own last word stands there."""
    status = folder.read_status()
    if status["state"] not in ("starting", "running"):
        return
    try:
        folder.write_last(status | {"state": state, "cause": cause})
    except OSError:  # the console and the log have the cause
        log.warning("the cause could not be written", extra={"cause": cause})


def _live(
    recipe: Recipe,
    folder: RunFolder,
    *,
    began: float,
    issuer: PromptIssuer,
    console: Console,
    builder: str,
    session: Session | None,
) -> Ending:
    wall, waited = new_clocks(began=began)
    store, ledger = open_store(recipe, folder), open_ledger(recipe, folder)
    reached = faults.from_environment(os.environ, markers=folder.faults, driver_pid=os.getpid())
    epoch = claim_epoch(store, kind="orchestrator", life=life_record(recipe))
    reached("epoch.claimed", epoch)
    log.info("life begins", extra={"epoch": epoch})
    vitals = Vitals(recipe, folder, epoch=epoch, wall=wall, waited=waited, disks=_disks(recipe, folder, store))
    opener = session.cluster if session else open_cluster
    with (
        vitals.noted(),
        opener(recipe, folder, epoch=epoch, warn=lambda line: console.say(f"warning: {line}")) as cluster,
        serving(recipe.metrics, folder, host=cluster.host) as targets,
        _server(recipe, folder),
        _buffer(recipe, folder, epoch) as buffer,
        open_sinks(recipe, folder, epoch=epoch, warn=lambda line: console.say(f"warning: {line}")) as sinks,
    ):
        admission = Admission(recipe, buffer=buffer, issuer=issuer, reached=reached)
        newest = adopt_newest(store, lineage=LINEAGE, run_epoch=epoch, threads=recipe.store.fetch_threads)
        published = newest.number if newest else -1
        committed = recover(buffer, ledger, admission)
        adopt_pins(store, lineage=LINEAGE, run_epoch=epoch)
        topology = Topology(
            recipe,
            folder,
            store=store,
            epoch=epoch,
            buffer=buffer,
            cluster=cluster,
            builder=builder,
            hosts=session.take("gen", "score", "rank") if session else {},
        )
        evaluation = _evaluation(
            recipe,
            folder,
            topology,
            store=store,
            epoch=epoch,
            newest=newest,
            console=console,
            told=sinks.evaluated,
            reached=reached,
        )
        run = Run(
            recipe,
            folder,
            store=store,
            buffer=buffer,
            topology=topology,
            admission=admission,
            mend=lambda: _mend(recipe, folder, admission, run_epoch=epoch, newest=topology.newest_epoch),
            lineage=LINEAGE,
            epoch=epoch,
            committed=committed,
            published=published,
            targets=targets,
            console=console,
            vitals=vitals,
            wall=wall,
            evaluation=evaluation,
            sinks=sinks,
            reached=reached,
        )
        return _drive(run, console)


def _disks(recipe: Recipe, folder: RunFolder, store: BlobStore) -> dict[str, Path]:
    """Where this life writes on this machine, by what it is."""
    found = {"run": folder.path}
    if isinstance(store, FileBlobStore):
        found["store"] = store.root
    if recipe.store.scratch:
        found["scratch"] = Path(recipe.store.scratch)
    return found


def _evaluation(
    recipe: Recipe,
    folder: RunFolder,
    topology: Topology,
    *,
    store: BlobStore,
    epoch: int,
    newest: WeightVersion | None,
    console: Console,
    told: Callable[[Mapping[str, Any]], None],
    reached: faults.Reached,
) -> PeriodicEvaluation | None:
    """None: the run does not evaluate itself."""
    config = recipe.evaluation
    if config is None or not recipe.evaluates_itself:
        return None
    return PeriodicEvaluation(
        config,
        recipe.supervise,
        folder=folder,
        store=store,
        lineage=LINEAGE,
        run_epoch=epoch,
        newest=newest,
        spawn=topology.worker,
        console=console,
        told=told,
        reached=reached,
    )


def _drive(run: Run, console: Console) -> Ending:
    state: Literal["completed", "stopped", "failed"] = "failed"
    cause = ""
    try:
        with Signals(run, console):
            ending = run.drive()
        state = ending
        return ending
    except RunFailed as error:
        cause = str(error)
        raise
    except KeyboardInterrupt:
        state, cause = "stopped", "stopped at once"
        raise
    except OUTSIDE as error:
        cause = str(error)
        log.exception("run failed")
        raise
    except Exception as error:
        cause = f"internal error: {type(error).__name__}: {error}"
        log.exception("driver failed")
        raise
    finally:
        try:
            run.close()  # first: the last word needs a disk that can be written
        finally:
            run.ended(state, cause=cause)
        log.info("life ends", extra={"state": state, "cause": cause})


def recover(buffer: ExperienceBuffer, ledger: Ledger, admission: Admission) -> int:
    """Make buffer and ledger agree; the number of committed batches.

    The ledger wins: what it holds is committed, whatever the buffer thinks. What was issued and is neither in a stream
    nor settled is lost: it is issued anew first and settled after, so that a death in between loses nothing.
    """
    committed, record = _restore(buffer, ledger)
    buffer.take_over()
    _check_and_reissue(buffer, record, admission)
    return committed


def _mend(recipe: Recipe, folder: RunFolder, admission: Admission, *, run_epoch: int, newest: int) -> None:
    """The same while the life goes on: its workers and its composer wait meanwhile, or end. Fenced: a newer life exists.

    The store is asked for the newest epoch, since the server may have forgotten it. The ranks' epoch lets us settle.
    """
    claimed = newest_epoch(open_store(recipe, folder))
    if claimed > newest:
        raise Fenced(f"epoch {newest}, the newest is {claimed}: this process belongs to an older life of the run")
    buffer = open_buffer(recipe, folder, run_epoch=run_epoch, trainer_epoch=newest)
    with closing(buffer):
        buffer.open(fingerprint=claim_name(recipe, folder))
        buffer.raise_epoch(role="run", epoch=run_epoch)
        buffer.raise_epoch(role="trainer", epoch=newest)
        catch_up(buffer, open_ledger(recipe, folder), admission)


def catch_up(buffer: ExperienceBuffer, ledger: Ledger, admission: Admission) -> None:
    """Make buffer and ledger agree while groups are being generated, scored and acknowledged, but no batch committed."""
    _, record = _restore(buffer, ledger)
    _check_and_reissue(buffer, record, admission)


def _restore(buffer: ExperienceBuffer, ledger: Ledger) -> tuple[int, BatchRecord | None]:
    """The newest batch, with the buffer's counters and open issues brought up to it."""
    committed = ledger.newest()
    record = ledger.read(committed) if committed else None
    if record is not None:
        buffer.restore(record=record)
    return committed, record


def _check_and_reissue(buffer: ExperienceBuffer, record: BatchRecord | None, admission: Admission) -> None:
    unsettled, settled = buffer.unsettled(), buffer.settled()
    try:
        check_restored(record, unsettled=unsettled, settled=settled, next_sequence=buffer.snapshot().next_sequence)
    except ValueError as error:
        raise RunFailed(str(error)) from error
    lost = lost_issues(unsettled, present=buffer.present())
    if lost:
        log.warning("groups were lost", extra={"groups": [issue.sequence for issue in lost]})
        again = reissues(lost, unsettled=unsettled, settled=settled)
        admission.issue_anew(again, buffer.snapshot())
        buffer.settle([issue.sequence for issue in lost], outcome="lost", reason="not in the buffer after a restart")


@contextmanager
def _server(recipe: Recipe, folder: RunFolder) -> Iterator[None]:
    """The embedded server, started or adopted, and started again when it dies; stopped when this life ends by itself.

    A server of the user's own is left alone.
    """
    server, ended = open_server(recipe, folder), threading.Event()
    if server is None:
        yield
        return
    keeper = threading.Thread(target=_keep, args=(server, ended), name="server-keeper", daemon=True)
    try:
        server.start()
        keeper.start()
        yield
    finally:
        ended.set()
        if keeper.is_alive():
            keeper.join()
        server.stop()


def _keep(server: EmbeddedServer, ended: threading.Event) -> None:
    """Its data are on disk and its socket stays the same, so that clients, which retry, go on. Ends with `ended`."""
    while not ended.wait(SERVER_LOOK_S):
        try:
            if server.pid is None:
                log.error("server died")
                server.start()
        except (ServerFailed, OSError, redis.RedisError) as error:
            log.error("server not started again", extra={"error": str(error)})


@contextmanager
def _buffer(recipe: Recipe, folder: RunFolder, epoch: int) -> Iterator[RedisBuffer]:
    buffer = open_buffer(recipe, folder, run_epoch=epoch, trainer_epoch=epoch)
    holder, url = claim_name(recipe, folder), recipe.experience.url
    try:
        buffer.open(fingerprint=holder)
        if _moved(folder, to=url):
            buffer.forget(fingerprint=holder)
            buffer.open(fingerprint=holder)
        buffer.raise_epoch(role="run", epoch=epoch)
        buffer.raise_epoch(role="trainer", epoch=epoch)
        folder.write_json(folder.server, {"url": url})
        yield buffer
    finally:
        buffer.close()


def _moved(folder: RunFolder, *, to: str) -> bool:
    """The life before used another server. What the run left on this one in still earlier days is older than the ledger:
    groups among it may be trained by now, and must not come back."""
    try:
        before = str(json.loads(folder.server.read_text())["url"])
    except FileNotFoundError:
        return False
    if before != to:
        log.warning("server changed", extra={"before": before, "now": to})
    return before != to
