"""Lives of a run in one process each: all of the protocol on the real stores, without Ray, engines and a process group.

    python one_process_life.py RUN MODEL POINT@STEP ...

forks one life after the other, each of which kills itself at its point, then one that goes on to the end; prints the
digest of the last version's weights. Prompts are answered and scored by arithmetic on their sequence, so that only the
protocol decides what is trained.
"""

import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from experience.config import ExperienceConfig
from experience.ledger import Ledger
from experience.redis_buffer import RedisBuffer
from experience.schema import (
    Completion,
    CompletionGroup,
    Controls,
    Production,
    Prompt,
    SampleScore,
    ScoredGroup,
    VersionSpan,
)
from experience.server import EmbeddedServer
from experience.wire import decode, encode
from orchestrator import faults
from orchestrator.admission import Admission
from orchestrator.config import Recipe
from orchestrator.life import recover
from orchestrator.prompts import PromptIssuer, SourcePrompt
from orchestrator.run import Run
from train_cluster.compose import Composer
from train_cluster.config import CriticConfig, KlConfig, OptimizerConfig, PpoConfig, TrainingConfig
from train_cluster.learner import Learner
from train_cluster.model import load_policy, tied_aliases
from train_cluster.plain import PlainEngine
from train_cluster.publication import Publisher
from train_cluster.scalar import load_scalar
from train_cluster.snapshot import Writer, agree_on_cut, load, snapshot
from weightstore.adopt import adopt_newest
from weightstore.blobs import FileBlobStore
from weightstore.epochs import claim_epoch

STEPS, CUT_EVERY, DEADLINE_S, SAMPLES = 6, 2, 60.0, 4
RECIPE = Recipe.model_validate(
    {
        "run": {"name": "points", "steps": STEPS},
        "model": {"path": "m"},
        "data": {"path": "d.jsonl"},
        "scoring": {"rewards": [{"name": "length", "function": "score_cluster.functions:length_penalty"}]},
        "generation": {"max_tokens": 8, "group_size": SAMPLES},
        "pacing": {"batch_groups": 2, "max_staleness": 1},
    }
)
TRAINING = TrainingConfig(
    algorithm=PpoConfig(critic=CriticConfig(warmup_steps=1, learning_rate=1e-3)),
    optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=2),
    kl=KlConfig(target_nats=0.01),
    attention_dropout=0.1,
    epochs=2,
    mini_batches=2,
    dtype="float32",
)
CONTROLS = Controls(learning_rate_scale=1.0, kl_scale=1.0, clip_low=0.2, clip_high=0.28, temperature=1.0)
PRODUCTION = Production(worker="w", deliveries=1, queued_at=0.0, leased_at=0.0, waited_s=0.0, worked_s=0.0)


class Words:
    def draw(self, cursor: int) -> tuple[SourcePrompt, int]:
        return self.by_id(f"words:0:{cursor}"), cursor + 1

    def by_id(self, prompt_id: str) -> SourcePrompt:
        number = int(prompt_id.rpartition(":")[2])
        return SourcePrompt(
            prompt_id=prompt_id, tokens=np.array([3, 4 + number % 8], np.int32), metadata={"prompt": "ab"}
        )


class OneProcess:
    """A driver and a rank, step by step, in the order that orchestrator.life and orchestrator.trainer go by."""

    def __init__(self, run: Path, model: Path) -> None:
        self.reached = faults.from_environment(os.environ, markers=run / "faults", driver_pid=os.getpid())
        self.store = FileBlobStore(run)
        self.epoch = claim_epoch(self.store, kind="orchestrator", life={})
        self.reached("epoch.claimed", self.epoch)
        server = EmbeddedServer(run / "redis")
        server.start()
        self.buffer = RedisBuffer(
            server.client,
            run_id="points",
            config=ExperienceConfig(),
            run_epoch=self.epoch,
            trainer_epoch=self.epoch,
        )
        self.buffer.open(fingerprint="f")
        self.buffer.raise_epoch(role="run", epoch=self.epoch)
        self.buffer.raise_epoch(role="trainer", epoch=self.epoch)
        issuer = PromptIssuer(RECIPE, source=Words(), stop_token_ids=(1,), lineage=0)  # type: ignore[arg-type]
        self.admission = Admission(RECIPE, buffer=self.buffer, issuer=issuer, reached=self.reached)
        newest = adopt_newest(self.store, lineage=0, run_epoch=self.epoch, threads=1)
        self.published = newest.number if newest else -1
        self.ledger = Ledger(self.store, lineage=0)
        self.recovered = recover(self.buffer, self.ledger, self.admission)
        self._rank(model)

    def _rank(self, model: Path) -> None:
        drawn: dict[str, Any] = {"random_init": True, "attention_dropout": TRAINING.attention_dropout}
        module, critic = load_policy(model, seed=1, **drawn), load_scalar(model, seed=2, head="zeros", **drawn)
        self.engine = PlainEngine(module, optimizer=TRAINING.optimizer)
        self.engines = {"policy": self.engine, "critic": PlainEngine(critic, optimizer=TRAINING.optimizer)}
        self.learner = Learner(self.engine, config=TRAINING, critic=self.engines["critic"])
        where = {"lineage": 0, "epoch": self.epoch, "deadline_s": DEADLINE_S, "reached": self.reached}
        self.writer = Writer(self.store, rank=0, world_size=1, config_hash="h", **where)  # type: ignore[arg-type]
        self.publisher = Publisher(  # type: ignore[arg-type]
            self.engine, self.store, model_path=model, aliases=tied_aliases(module), shard_bytes=2000, **where
        )
        self.composer = Composer(
            run_id="points",
            lineage=0,
            epoch=self.epoch,
            buffer=self.buffer,
            ledger=self.ledger,
            pacing=RECIPE.pacing,
            algorithm=RECIPE.training.algorithm,
            controls=CONTROLS,
            seed=1,
            config_hash="h",
            timeout_s=DEADLINE_S,
            reached=self.reached,
        )
        cut = agree_on_cut(self.store, 0, self.engine)
        self.step = cut.step if cut else 0
        if cut is None:
            self.cut()
        else:
            load(self.store, cut, self.engines)
            self.learner.load_state(dict(cut.state["learner"]))

    def live(self) -> str:
        """Train up to the last step; the digest of what is published then."""
        digest = ""
        while True:
            if self.published < self.step >= self.recovered or self.step == STEPS:
                digest = self.publish()
            if self.step == STEPS:
                return digest
            self.admission.admit(self.buffer.snapshot(), published=self.published)
            self.arrive()
            record = self.composer.compose(self.step + 1)
            self.learner.step(record)
            self.step += 1
            if self.step % CUT_EVERY == 0:
                self.cut()

    def publish(self) -> str:
        self.publisher.publish(self.step)
        answer = self.publisher.wait(self.step, timeout_s=DEADLINE_S)
        driver = SimpleNamespace(_reached=self.reached, _store=self.store, _lineage=0, _epoch=self.epoch)
        Run._published(driver, answer)  # type: ignore[arg-type]
        self.published = self.step
        return str(answer["digest"])

    def cut(self) -> None:
        state = {"learner": self.learner.state()}
        taken = snapshot(
            self.engines, step=self.step, state=state, newest_version=self.published, cursors={"prompts": 0}
        )
        self.writer.start(taken)
        self.writer.wait(self.step, timeout_s=DEADLINE_S)

    def arrive(self) -> None:
        """Answer and score all that waits."""
        for lease in self.buffer.lease("prompts", worker=f"gen.{self.epoch}", count=100, lease_s=DEADLINE_S):
            self.buffer.advance([(lease, encode(answered(decode(lease.data, Prompt))))])
        for lease in self.buffer.lease("completions", worker=f"score.{self.epoch}", count=100, lease_s=DEADLINE_S):
            self.buffer.advance([(lease, encode(scored(decode(lease.data, CompletionGroup))))])


def answered(prompt: Prompt) -> CompletionGroup:
    """The same tokens for the same prompt, whatever its sequence; sampled by the oldest version that was allowed."""
    random = np.random.default_rng(prompt.tokens.tolist())
    lengths = random.integers(1, 9, SAMPLES)
    return CompletionGroup(
        prompt=prompt,
        completions=tuple(
            Completion(
                index=index,
                tokens=random.integers(3, 20, length).astype(np.int32),
                sampled=np.ones(length, dtype=np.bool_),
                behaviour_logprobs=random.normal(-3.0, 0.2, length).astype(np.float32),
                spans=(VersionSpan(lineage=0, epoch=1, number=prompt.min_version, start=0, end=int(length)),),
                channels={},
                finish_reason="stop",
                seed=index,
            )
            for index, length in enumerate(lengths)
        ),
        production=PRODUCTION,
    )


def scored(group: CompletionGroup) -> ScoredGroup:
    scores = tuple(
        SampleScore(
            components={"length": float(len(completion.tokens))},
            total=float(len(completion.tokens)),
            measures={},
            reference_logprobs={"reference": completion.behaviour_logprobs},
            step_positions=np.zeros(0, dtype=np.int32),
            step_rewards=np.zeros(0, dtype=np.float32),
        )
        for completion in group.completions
    )
    return ScoredGroup(group=group, scores=scores, component_hashes={"length": "00" * 32}, production=PRODUCTION)


def forked(run: Path, model: Path, fault: str) -> int:
    """Wait status of one life; libraries are imported once, before the first."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    os.environ[faults.VARIABLE] = fault
    print(OneProcess(run, model).live(), flush=True)
    os._exit(0)


def main(run: Path, model: Path, points: list[str]) -> None:
    torch.set_num_threads(1)
    for point in points:
        began = time.monotonic()
        status = forked(run, model, f"{point}:self")
        print(f"{point}: {time.monotonic() - began:.1f} s", file=sys.stderr)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            raise SystemExit(f"the life that was to die at {point} ended with status {status}")
    if forked(run, model, ""):
        raise SystemExit("the last life failed")
    EmbeddedServer(run / "redis").stop()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
