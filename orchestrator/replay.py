"""Trains a run's committed batches again, from a cut and the ledger alone, and compares the weights that come out.

Nothing of the run is written to: the test of the claim that its weights follow from its ledger, and the way to debug a
bad step afterwards.
"""

from dataclasses import asdict, dataclass
from typing import Any

from orchestrator import logs
from orchestrator.config import Recipe
from orchestrator.console import Console
from orchestrator.errors import RunFailed
from orchestrator.folder import RunFolder
from orchestrator.ranks import RankCrew
from orchestrator.stores import LINEAGE, open_ledger, open_store
from train_cluster.checkpoint import cuts
from weightstore.fetch import read_manifest
from weightstore.publish import last_recorded


@dataclass(frozen=True, kw_only=True, slots=True)
class ReplayReport:
    from_step: int
    """The oldest kept cut from which the ledger is whole."""
    to_step: int
    digest: str
    """SHA-256 over the replayed weights, tensor by tensor."""
    expected: str
    """The same of the version that the run itself published."""

    @property
    def identical(self) -> bool:
        return self.digest == self.expected

    def as_dict(self) -> dict[str, Any]:
        return asdict(self) | {"identical": self.identical}

    def lines(self) -> list[str]:
        verdict = "bit-identical to" if self.identical else "DIFFERENT from"
        return [
            f"replayed steps {self.from_step + 1} to {self.to_step} from the cut at step {self.from_step}",
            f"weights {self.digest} are {verdict} version {self.to_step} of the run ({self.expected})",
        ]


def replay(recipe: Recipe, folder: RunFolder, *, console: Console) -> ReplayReport:
    """ValueError: nothing to replay. RunFailed: a rank failed."""
    logs.configure(folder.logs, run=folder.run_id, worker="replay")
    store, ledger = open_store(recipe, folder), open_ledger(recipe, folder)
    newest = last_recorded(store, lineage=LINEAGE)
    if newest is None:
        raise ValueError(f"{folder.path}: the run has published nothing yet, so there is nothing to compare with")
    committed = set(ledger.numbers())
    start = next(
        (
            cut.step
            for cut in sorted(cuts(store, LINEAGE), key=lambda cut: cut.step)
            if cut.step < newest.number and committed >= set(range(cut.step + 1, newest.number + 1))
        ),
        None,
    )
    if start is None:
        raise ValueError(
            f"{folder.path}: no checkpoint before version {newest.number} is kept with all its later batches in the ledger; "
            "nothing to replay"
        )
    expected = read_manifest(store, newest).digest()
    with RankCrew(recipe, folder, cut_step=start) as crew:
        for step in range(start + 1, newest.number + 1):
            report = crew.call("train", step)[0]
            console.stepped(report, steps=newest.number)
        digest = crew.call("weights_digest")[0]
    if not isinstance(digest, str):
        raise RunFailed("the replay's ranks gave no digest")
    return ReplayReport(from_step=start, to_step=newest.number, digest=digest, expected=expected)
