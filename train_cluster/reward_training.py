"""Training of reward models as ranks run it: from pairs and a model folder to a folder with its card.

    .out.{identity}.partial/     one model:  config.json model.safetensors tokenizer… reward_card.json reward_card.html held_out.jsonl
                                 several:    0/ 1/ … as above, then reward_card.json reward_card.html of the whole
    renamed to out               last: what is there is whole

Members are trained one after another by the same processes. A life that was killed is gone on with: finished members
stay, the one in hand goes on from its newest cut.
"""

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from train_cluster import distributed, supervised
from train_cluster.config import TrainingConfig
from train_cluster.engine import TrainEngine
from train_cluster.pair_split import Split, balance_lengths, member_pairs, split_against, split_pairs, without_margins
from train_cluster.pair_text import Template
from train_cluster.pairs import Pair, PairFile, read_pairs
from train_cluster.publication import whole_tensors
from train_cluster.reward_card import HeldOut
from train_cluster.reward_config import RewardTrainingConfig
from train_cluster.reward_folder import MemberFacts, read_scores, write_ensemble, write_member
from train_cluster.reward_objective import PreferenceLoss, score_sequences
from train_cluster.scalar import load_scalar
from train_cluster.stage_cuts import StageCuts
from train_cluster.zero import ZeroEngine


class Progress(Protocol):
    def __call__(self, report: supervised.StageReport, *, member: int) -> None: ...


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
    """For checkpoints, seen by all ranks."""

    @property
    def draft(self) -> Path:
        out = Path(self.config.out)
        return out.with_name(f".{out.name}.{self.identity[:12]}.partial")

    @property
    def cuts(self) -> Path:
        return self.folder / f"reward-{self.identity[:12]}"

    def member_folder(self, member: int) -> Path:
        return self.draft if self.config.members == 1 else self.draft / str(member)

    def member_seed(self, member: int) -> int:
        """Of the head, the order of the pairs and the dropout."""
        return int(np.random.SeedSequence([self.seed, member]).generate_state(1, np.uint32)[0])


@dataclass(frozen=True, kw_only=True, slots=True)
class Data:
    files: tuple[PairFile, ...]
    split: Split


def run(job: Job, *, rank: int, world_size: int, progress: Progress, stopping: Callable[[], bool]) -> dict[str, Any]:
    """(collective) Train what is missing of `config.out`; rank 0 writes it.

    ValueError: pairs that are bad, or too few. FloatingPointError: a loss or a score that is not finite.
    """
    from transformers import AutoTokenizer  # here, since ranks of a run never need it

    assert job.config.base is not None
    tokenizer = AutoTokenizer.from_pretrained(job.config.base, local_files_only=True)
    template = Template(tokenizer=tokenizer, chat_template=job.chat_template, system_prompt=job.system_prompt)
    data = read_data(job.config, template, max_tokens=context_tokens(job.config.base), seed=job.seed)
    answer: dict[str, Any] = {}
    for member in range(job.config.members):
        done = (job.member_folder(member) / "reward_card.json").exists()
        distributed.meet()  # before rank 0 writes the next one, all have seen whether this one is there
        if done:
            continue
        outcome = _train_member(
            job, data, member, rank=rank, world_size=world_size, progress=progress, stopping=stopping
        )
        answer = {"finished": outcome.finished, "steps": outcome.step, "total": outcome.total, "loss": outcome.loss}
        if not outcome.finished:
            return answer | {"member": member}
    if rank == 0:
        answer |= _finish(job)
    distributed.meet()
    return answer | {"finished": True, "out": job.config.out, "members": job.config.members}


def read_data(config: RewardTrainingConfig, template: Template, *, max_tokens: int | None, seed: int) -> Data:
    """Files and split. BadPairs, ValueError: see read_pairs and pair_split."""
    file = read_pairs(config.path, template, config=config, max_tokens=max_tokens)
    if config.held_out_path is None:
        split = split_pairs(file.pairs, share=config.held_out, seed=seed)
        return Data(files=(file,), split=split)
    # The filter is asked for once, of the pairs to train on: those that judge may have been rated by one person each.
    relaxed = config.model_copy(update={"min_agreement": None})
    judged = read_pairs(config.held_out_path, template, config=relaxed, max_tokens=max_tokens)
    return Data(files=(file, judged), split=split_against(file.pairs, judged.pairs))


def context_tokens(base: str) -> int | None:
    """By its config.json, as far as it says."""
    config = json.loads((Path(base) / "config.json").read_text())
    limit = config.get("max_position_embeddings")
    return limit if isinstance(limit, int) else None


def _train_member(
    job: Job,
    data: Data,
    member: int,
    *,
    rank: int,
    world_size: int,
    progress: Progress,
    stopping: Callable[[], bool],
) -> supervised.Outcome:
    config, seed = job.config, job.member_seed(member)
    held_out = data.split.held_out if config.margins else without_margins(data.split.held_out)
    pairs = member_pairs(data.split.train, member=member, members=config.members, kind=config.split, seed=job.seed)
    units, slope = balance_lengths(pairs if config.margins else without_margins(pairs), penalty=config.length_penalty)
    engine = _engine(job, member, rank=rank, world_size=world_size)
    steps = job.cuts / f"member-{member}.jsonl"

    def note(report: supervised.StageReport) -> None:
        progress(report, member=member)
        if rank == 0:
            with steps.open("a") as stream:
                stream.write(json.dumps(report.as_dict()) + "\n")

    with closing(engine), closing(StageCuts(engine, job.cuts / f"member-{member}", identity=job.identity)) as cuts:
        outcome = supervised.train(
            engine,
            PreferenceLoss(centring=config.centring, flip_rate=config.flip_rate),
            units,
            held_out=held_out,
            config=config,
            batch_units=config.batch_pairs,
            micro_batch_tokens=job.training.micro_batch_tokens,
            seed=seed,
            cuts=cuts,
            progress=note,
            stopping=stopping,
        )
        if outcome.finished:
            judged = judge(engine, held_out, micro_batch_tokens=job.training.micro_batch_tokens)
            tensors = dict(whole_tensors(engine))
            if rank == 0:
                facts = _facts(job, data, pairs, member=member, steps=outcome.total, slope=slope)
                write_member(
                    job.member_folder(member),
                    facts,
                    tensors=tensors,
                    held_out=judged,
                    pairs=held_out,
                    curve=_curve(steps),
                )
    return outcome


def _engine(job: Job, member: int, *, rank: int, world_size: int) -> ZeroEngine:
    config = job.config
    assert config.base is not None
    module = load_scalar(
        config.base,
        attention_dropout=config.dropout,
        seed=job.member_seed(member),
        gradient_checkpointing=job.training.gradient_checkpointing,
        head="fresh",
        random_init=config.random_init,
    )
    if rank == 0:
        job.cuts.mkdir(parents=True, exist_ok=True)
    optimizer = job.training.optimizer.model_copy(update={"weight_decay": config.weight_decay})
    distributed.meet()  # each rank has read the folder in its own time
    return ZeroEngine(
        module, config=job.training.model_copy(update={"optimizer": optimizer}), rank=rank, world_size=world_size
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


def _curve(steps: Path) -> list[Mapping[str, Any]]:
    """One entry a step; a step that was trained again after a kill stands there twice, alike."""
    found: dict[int, Mapping[str, Any]] = {}
    for line in steps.read_bytes().splitlines():
        try:
            report = json.loads(line)
        except ValueError:  # the last line of a life that was killed as it wrote it; the step came again
            continue
        held_out = {f"held_out_{name}": value for name, value in report["held_out"].items()}
        found[report["step"]] = {"step": report["step"], "loss": report["loss"], **report["measures"], **held_out}
    return [found[step] for step in sorted(found)]


def _finish(job: Job) -> dict[str, Any]:
    """Rank 0, with all members there: the card of an ensemble; then the folder appears under its name."""
    if job.config.members > 1:
        folders = [job.member_folder(member) for member in range(job.config.members)]
        write_ensemble(job.draft, folders, [read_scores(folder) for folder in folders])
    card = json.loads((job.draft / "reward_card.json").read_text())
    job.draft.rename(job.config.out)
    shutil.rmtree(job.cuts, ignore_errors=True)
    quality = card["held_out"]
    return {
        "accuracy": quality["accuracy"],
        "accuracy_95": quality["accuracy_95"],
        "verdict": quality["verdict"]["word"],
        "advice": quality["verdict"]["advice"],
        "warnings": [quality["length"]["warning"]] if quality["length"]["warning"] else [],
        "pairs": card["data"]["train_pairs"],
        "held_out_pairs": quality["pairs"],
    }
