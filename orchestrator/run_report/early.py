"""Keeps a run's first answers: the ledger forgets them after some hundred steps, and the report wants to show them."""

import logging
import threading
from pathlib import Path

from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.run_report.samples import keep_first, tokenizer_of

log = logging.getLogger(__name__)


def keep_in_background(recipe: Recipe, folder: RunFolder) -> None:
    """Once the first batch of a life is committed. A thread: the driver's loop waits for nobody; of a large batch it reads
    much. What goes wrong costs the report its early answers, and the run nothing."""
    threading.Thread(target=_keep, args=(recipe, folder), name="early-samples", daemon=True).start()


def _keep(recipe: Recipe, folder: RunFolder) -> None:
    from orchestrator.stores import open_ledger  # the stores' clients

    try:
        keep_first(folder, open_ledger(recipe, folder), tokenizer_of(Path(recipe.model.path)))
    except (OSError, ValueError) as error:
        log.warning("first answers not kept", extra={"error": str(error)})
