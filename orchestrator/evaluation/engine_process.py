"""An engine in a process of its own: it draws the answers of policies of one architecture, and ends.

    python -m orchestrator.evaluation.engine_process REQUEST.json REPLY_FD

The reply is JSON lines: {"progress": [policy, done, total]}, {"policy": name, "row": [S] answers to the next prompt},
{"error": line}.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec
import numpy as np

from experience.schema import Int32Array
from gen_cluster.config import EngineConfig
from gen_cluster.engine import Finished
from orchestrator.errors import EvaluationFailed
from orchestrator.evaluation.plan import Plan
from orchestrator.evaluation.policies import Policy
from orchestrator.evaluation.records import Question
from orchestrator.evaluation.sampling import Drawing
from weightstore.fetch import FetchedVersion

Progress = Callable[[str, int, int], None]
"""(policy, answers drawn, of so many)"""


class EngineProcess:
    """Starts at once, so that its caller can load other things meanwhile; `answers` waits for what it draws."""

    def __init__(self, plan: Plan, policies: Mapping[Policy, int]) -> None:
        """{policy: stream of its seeds}, all of one architecture."""
        self._scratch = tempfile.TemporaryDirectory(prefix="headrace-eval-")
        folder = Path(self._scratch.name)
        request, self._log = folder / "request.json", folder / "log"
        request.write_text(json.dumps(request_of(plan, policies)))
        read, write = os.pipe()
        command = [sys.executable, "-m", "orchestrator.evaluation.engine_process", str(request), str(write)]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, pass_fds=(write,)
            )
        os.close(write)
        self._reply = os.fdopen(read)

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reply.close()
        self._process.kill()  # it has nothing to write but its reply
        self._process.wait()
        self._scratch.cleanup()

    def answers(self, progress: Progress) -> dict[str, list[list[Finished]]]:
        """{policy: [P][S]}. ValueError: weights that do not fit. EvaluationFailed: the engine failed."""
        found: dict[str, list[list[Finished]]] = {}
        for line in self._reply:
            message = json.loads(line)
            if "error" in message:
                raise ValueError(message["error"])
            if "progress" in message:
                progress(*message["progress"])
            else:
                found.setdefault(message["policy"], []).append([_finished(one) for one in message["row"]])
        code = self._process.wait()
        if code:
            lines = self._log.read_text(errors="replace").strip().splitlines() or ["it said nothing"]
            raise EvaluationFailed(f"the engine's process ended with code {code}: {lines[-1][:300]}")
        return found


def serve(request: Mapping[str, Any], reply: IO[str]) -> None:
    """What the process does."""
    from gen_cluster.vllm_engine import VllmEngine
    from orchestrator.evaluation.folder_weights import tied_names
    from orchestrator.evaluation.sampling import PolicySampler

    def tell(message: Mapping[str, Any]) -> None:
        reply.write(json.dumps(message) + "\n")
        reply.flush()

    model_path = request["model_path"]
    questions = [_question(tokens) for tokens in request["questions"]]
    drawing = Drawing(**{**request["drawing"], "stop_token_ids": tuple(request["drawing"]["stop_token_ids"])})
    sampler = PolicySampler(VllmEngine(EngineConfig.model_validate(request["engine"]), model_path=model_path))
    aliases = tied_names(model_path)
    for number, job in enumerate(request["policies"]):
        name = job["name"]
        try:
            weights = _weights(job, number=number, aliases=aliases)
            drawn = sampler.answers(
                weights,
                questions,
                drawing,
                stream=job["stream"],
                progress=lambda done, total, name=name: tell({"progress": [name, done, total]}),  # type: ignore[misc]
            )
        except (ValueError, KeyError, OSError) as error:
            reason = " ".join(str(error).split())
            tell({"error": reason if reason.startswith("POLICY") else f"POLICY = {name}: {reason}"})
            return
        for row in drawn:
            tell({"policy": name, "row": [_told(one) for one in row]})
    sampler.close()


def request_of(plan: Plan, policies: Mapping[Policy, int]) -> dict[str, Any]:
    """What the process reads: JSON alone, no secrets."""
    return {
        "model_path": next(iter(policies)).model_path,
        "engine": plan.engine.model_dump(mode="json"),
        "drawing": asdict(plan.drawing),
        "questions": [question.tokens.tolist() for question in plan.questions],
        "policies": [
            {
                "name": one.name,
                "stream": stream,
                "folder": one.model_path,
                "run": str(one.run.path) if one.run is not None else None,
                "version": str(one.version) if one.version is not None else None,
            }
            for one, stream in policies.items()
        ],
    }


def _weights(job: Mapping[str, Any], *, number: int, aliases: frozenset[str]) -> FetchedVersion:
    from orchestrator import recipe as recipes
    from orchestrator.evaluation.folder_weights import read_folder
    from orchestrator.folder import RunFolder
    from orchestrator.stores import LINEAGE, open_store
    from weightstore.fetch import StoreWeightSource
    from weightstore.manifest import WeightVersion

    # Names of our own, since versions of two runs may bear the same, and the engine's cache knows weights by their name.
    label = WeightVersion(0, 0, number)
    if job["version"] is None:
        return read_folder(Path(job["folder"]), version=label, aliases=aliases)
    run, version = RunFolder(Path(job["run"])), WeightVersion.parse(job["version"])
    recipe = recipes.load_dumped(run.recipe)
    source = StoreWeightSource(
        open_store(recipe, run), lineage=LINEAGE, run_epoch=version.epoch, threads=recipe.store.fetch_threads
    )
    fetched = source.fetch(version)
    return replace(fetched, manifest=msgspec.structs.replace(fetched.manifest, version=label))


def _question(tokens: Sequence[int]) -> Question:
    """As an engine needs it: it sees tokens alone."""
    return Question(text="", tokens=_int32(tokens), category="", metadata={})


def _told(one: Finished) -> dict[str, Any]:
    return {"tokens": one.tokens.tolist(), "logprobs": one.logprobs.tolist(), "finish_reason": one.finish_reason}


def _finished(told: Mapping[str, Any]) -> Finished:
    return Finished(
        request_id="",
        tokens=_int32(told["tokens"]),
        logprobs=np.asarray(told["logprobs"], np.float32),
        spans=(),
        finish_reason=told["finish_reason"],
    )


def _int32(values: Sequence[int]) -> Int32Array:
    array = np.asarray(values, np.int32)
    array.setflags(write=False)
    return array


if __name__ == "__main__":
    with os.fdopen(int(sys.argv[2]), "w") as pipe:
        serve(json.loads(Path(sys.argv[1]).read_text()), pipe)
