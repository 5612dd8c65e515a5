"""Training of reward models as ranks run it: from pairs and a model folder to a folder with its card.

    folder/reward-0.jsonl                what was said of each step of a member; stays
    folder/checkpoints/member-0/ …       cuts of the member in hand
    folder/checkpoints/finished/0/ …     config.json model.safetensors tokenizer… reward_card.json reward_card.html held_out.jsonl
    draft/                               last, whole: the one model, or 0/ 1/ … and the card and page of all

Members are trained one after another by the same processes. A life that was killed is gone on with: finished members
stay, the one in hand goes on from its newest cut.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from train_cluster import distributed
from train_cluster.config import TrainingConfig
from train_cluster.engine import TrainEngine
from train_cluster.publication import whole_tensors
from train_cluster.reward.config import RewardTrainingConfig
from train_cluster.reward.figures import HeldOut
from train_cluster.reward.folder import CARD, MemberFacts, write_ensemble, write_member
from train_cluster.reward.objective import PreferenceLoss, balance_lengths, score_sequences
from train_cluster.reward.pair_data import Data, context_tokens, read_data
from train_cluster.reward.pair_split import member_pairs, without_margins
from train_cluster.reward.pair_text import Template
from train_cluster.reward.pairs import Pair
from train_cluster.scalar import load_scalar
from train_cluster.supervised import loop
from train_cluster.supervised.cuts import StageCuts
from train_cluster.supervised.journal import Journal
from train_cluster.zero import ZeroEngine

Progress = Callable[[Mapping[str, Any]], None]
"""A StageReport as a mapping, its `step` and `total` counted over all members, and which `member` it is of."""

Reached = Callable[[str, int], None]
"""(point, step): where tests inject faults."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Job:
    """What is trained, on what, and where it goes; the same on every rank."""

    config: RewardTrainingConfig
    """Its `base` is set."""
    training: TrainingConfig
    seed: int
    chat_template: bool
    system_prompt: str | None
    identity: str
    """Hash of all that the weights follow from: what is half done under another is not gone on with."""
    folder: Path
    """Of the stage; all ranks see it."""
    draft: Path
    """Where the result is written: not there yet."""

    @property
    def work(self) -> Path:
        return self.folder / "checkpoints"

    def cuts(self, member: int) -> Path:
        return self.work / f"member-{member}"

    def finished(self, member: int) -> Path:
        return self.work / "finished" / str(member)

    def member_seed(self, member: int) -> int:
        """Of the head, the order of the pairs and the dropout."""
        return int(np.random.SeedSequence([self.seed, member]).generate_state(1, np.uint32)[0])


def run(
    job: Job,
    *,
    rank: int,
    world_size: int,
    progress: Progress,
    stopping: Callable[[], bool],
    reached: Reached = lambda point, step: None,
) -> dict[str, Any]:
    """(collective) Train the members that are missing; rank 0 writes them, and at the end the draft.

    ValueError: pairs that are bad, or too few. FloatingPointError: a loss or a score that is not finite.
    """
    from transformers import AutoTokenizer  # here, since ranks of a run never need it

    assert job.config.base is not None
    tokenizer = AutoTokenizer.from_pretrained(job.config.base, local_files_only=True)
    template = Template(tokenizer=tokenizer, chat_template=job.chat_template, system_prompt=job.system_prompt)
    data = read_data(job.config, template, max_tokens=context_tokens(job.config.base), seed=job.seed)
    for member in range(job.config.members):
        found = "there" if (job.finished(member) / CARD).exists() else "missing"
        if distributed.meet(found) == "there":  # rank 0's look counts, and comes before it writes the next one
            continue
        member_rank = _Member(job, data, member, rank=rank, world_size=world_size)
        outcome = member_rank.train(progress=progress, stopping=stopping, reached=reached)
        if not outcome.finished:
            return {"finished": False, "member": member, "step": outcome.step, "total": outcome.total}
        distributed.meet()  # nobody reads or writes a cut of it any more
        if rank == 0:
            shutil.rmtree(job.cuts(member), ignore_errors=True)
    answer = _finish(job) if rank == 0 else {}
    distributed.meet()
    return {"finished": True, **answer}


class _Member:
    """One model of the job, on one rank."""

    def __init__(self, job: Job, data: Data, member: int, *, rank: int, world_size: int) -> None:
        self._job, self._data, self._member = job, data, member
        self._rank, self._world_size = rank, world_size
        config, split = job.config, data.split
        self._pairs = member_pairs(
            split.train, member=member, members=config.members, kind=config.member_data, seed=job.seed
        )
        self._held_out = split.held_out
        if not config.margins:
            self._pairs, self._held_out = without_margins(self._pairs), without_margins(self._held_out)
        self._journal = job.folder / f"reward-{member}.jsonl"

    def train(self, *, progress: Progress, stopping: Callable[[], bool], reached: Reached) -> loop.Outcome:
        """(collective) From the newest cut; rank 0 writes the finished folder."""
        config, job = self._job.config, self._job
        units, slope = balance_lengths(self._pairs, penalty=config.length_penalty)
        engine = self._engine()

        def show(report: loop.StageReport) -> None:
            self._show(report, progress)

        with (
            closing(engine),
            closing(StageCuts(engine, job.cuts(self._member), identity=job.identity, reached=reached)) as cuts,
        ):
            outcome = loop.train(
                engine,
                PreferenceLoss(centring=config.centring, flip_rate=config.flip_rate),
                units,
                held_out=self._held_out,
                config=config,
                batch_units=config.batch_pairs,
                micro_batch_tokens=job.training.micro_batch_tokens,
                seed=job.member_seed(self._member),
                cuts=cuts,
                progress=Journal(self._journal, also=show).add if self._rank == 0 else show,
                stopping=stopping,
            )
            if outcome.finished:
                self._write(engine, slope=slope, steps=outcome.total)
        return outcome

    def _engine(self) -> ZeroEngine:
        config, training = self._job.config, self._job.training
        assert config.base is not None
        module = load_scalar(
            config.base,
            attention_dropout=config.dropout,
            seed=self._job.member_seed(self._member),
            gradient_checkpointing=training.gradient_checkpointing,
            head="fresh",
            random_init=config.random_init,
        )
        if self._rank == 0:
            self._job.work.mkdir(parents=True, exist_ok=True)
        optimizer = training.optimizer.model_copy(update={"weight_decay": config.weight_decay})
        distributed.meet()  # each rank has read the folder in its own time
        training = training.model_copy(update={"optimizer": optimizer})
        return ZeroEngine(module, config=training, rank=self._rank, world_size=self._world_size)

    def _show(self, report: loop.StageReport, progress: Progress) -> None:
        before = self._member * report.total  # members may differ by a batch, which a count for people may ignore
        total = self._job.config.members * report.total
        progress(report.as_dict() | {"step": before + report.step, "total": total, "member": self._member})

    def _write(self, engine: TrainEngine, *, slope: float, steps: int) -> None:
        """(collective)"""
        job = self._job
        judged = judge(engine, self._held_out, micro_batch_tokens=job.training.micro_batch_tokens)
        tensors = dict(whole_tensors(engine))
        if self._rank == 0:
            facts = _facts(job, self._data, self._pairs, member=self._member, steps=steps, slope=slope)
            write_member(
                job.finished(self._member),
                facts,
                tensors=tensors,
                held_out=judged,
                pairs=self._held_out,
                curve=_curve(self._journal),
            )


def judge(engine: TrainEngine, held_out: Sequence[Pair], *, micro_batch_tokens: int) -> HeldOut:
    """(collective) Score held-out pairs. FloatingPointError: one score is not finite."""
    sequences = [sequence for pair in held_out for sequence in (pair.chosen, pair.rejected)]
    scores = score_sequences(engine, sequences, micro_batch_tokens=micro_batch_tokens)
    if not np.isfinite(scores).all():
        line = held_out[int(np.flatnonzero(~np.isfinite(scores))[0]) // 2].line
        raise FloatingPointError(f"the score of held-out line {line} is not finite; lower reward.learning_rate")
    tokens = np.array([pair.answer_tokens for pair in held_out], dtype=np.float64)
    return HeldOut(
        chosen=scores[0::2],
        rejected=scores[1::2],
        chosen_tokens=tokens[:, 0],
        rejected_tokens=tokens[:, 1],
        categories=tuple(pair.category for pair in held_out),
    )


def _facts(job: Job, data: Data, pairs: Sequence[Pair], *, member: int, steps: int, slope: float) -> MemberFacts:
    split = data.split
    return MemberFacts(
        config=job.config,
        member=member,
        steps=steps,
        seed=job.member_seed(member),
        length_slope=slope,
        identity=job.identity,
        chat_template=job.chat_template,
        system_prompt=job.system_prompt,
        data={
            "files": [file.counts() for file in data.files],
            "train_pairs": len(split.train),
            "train_prompts": len({pair.prompt_key for pair in split.train}),
            "member_pairs": len(pairs),
            "member_prompts": len({pair.prompt_key for pair in pairs}),
            "held_out_pairs": len(split.held_out),
            "held_out_prompts": len({pair.prompt_key for pair in split.held_out}),
            "overlapping_pairs": split.overlapping,
        },
    )


def _curve(journal: Path) -> list[Mapping[str, Any]]:
    """One entry a step."""
    found: list[Mapping[str, Any]] = []
    for line in journal.read_text(encoding="utf-8").splitlines():
        report = json.loads(line)
        held_out = {f"held_out_{name}": value for name, value in report["held_out"].items()}
        found.append({"step": report["step"], "loss": report["loss"], **report["measures"], **held_out})
    return found


def _finish(job: Job) -> dict[str, Any]:
    """Rank 0, with all members there: the draft, and what its card says in short."""
    members = [job.finished(member) for member in range(job.config.members)]
    shutil.rmtree(job.draft, ignore_errors=True)  # of ranks that died while they wrote it
    if len(members) == 1:
        shutil.copytree(members[0], job.draft, copy_function=_link)
    else:
        for member in members:
            shutil.copytree(member, job.draft / member.name, copy_function=_link)
        write_ensemble(job.draft, members)
    card = json.loads((job.draft / CARD).read_text())
    quality, data = card["held_out"], card["data"]
    return {
        "steps": card["training"]["steps"],
        "members": len(members),
        "accuracy": quality["accuracy"],
        "accuracy_95": quality["accuracy_95"],
        "verdict": quality["verdict"]["word"],
        "advice": quality["verdict"]["advice"],
        "length_correlation": quality["length"]["pearson"],
        "warnings": [quality["length"]["warning"]] if quality["length"]["warning"] else [],
        "train_pairs": data["train_pairs"],
        "held_out_pairs": data["held_out_pairs"],
    }


def _link(source: str, target: str) -> None:
    """A second name for the same bytes; a copy where the file system is another, or knows no such names."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
