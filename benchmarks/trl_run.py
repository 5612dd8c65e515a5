"""TRL's GRPOTrainer on one of the two tasks, as a process of its own: each rank writes a JSON line a step.

python -m benchmarks.trl_run SPEC.json                                    one process
torchrun --nproc-per-node 2 -m benchmarks.trl_run SPEC.json               two, data-parallel
"""

import json
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    SPEC: dict[str, Any] = json.loads(Path(sys.argv[1]).read_text())
    os.environ["OMP_NUM_THREADS"] = str(SPEC["threads"])  # read once, when torch is imported
    os.environ["HF_HUB_OFFLINE"] = "1"
    if SPEC["options"].get("use_vllm"):
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

import torch
from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from score_cluster.functions import character_accuracy, exact_match

REWARDS = {"characters": character_accuracy, "exact": exact_match}


@dataclass(kw_only=True)
class Recorder:
    """What one step did; a line in the rank's file when it ends."""

    path: Path
    """One file a rank: on a shared standard output lines would run into each other."""
    tokens: int = 0
    rewards: dict[str, float] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def add_seconds(self, phase: str, seconds: float) -> None:
        self.seconds[phase] = self.seconds.get(phase, 0.0) + seconds

    def flush(self, step: int) -> None:
        line = {"step": step, "at": time.time(), "cpu_s": time.process_time()}
        line |= {"tokens": self.tokens, "rewards": self.rewards, "seconds": self.seconds}
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        self.tokens, self.rewards, self.seconds = 0, {}, {}


class StepEnds(TrainerCallback):
    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._recorder.flush(state.global_step)


class TimedTrainer(GRPOTrainer):
    """GRPOTrainer with the wall time of its parts; it computes nothing else or otherwise."""

    recorder: Recorder

    def _generate_single_turn(self, *args: Any, **named: Any) -> Any:
        began = time.perf_counter()
        answer = super()._generate_single_turn(*args, **named)
        self.recorder.add_seconds("generation", time.perf_counter() - began)
        return answer

    def _generate_and_score_completions(self, *args: Any, **named: Any) -> Any:
        began, before = time.perf_counter(), self.recorder.seconds.get("generation", 0.0)
        answer = super()._generate_and_score_completions(*args, **named)
        generation = self.recorder.seconds.get("generation", 0.0) - before
        self.recorder.add_seconds("rewards and reference", time.perf_counter() - began - generation)
        return answer

    def training_step(self, *args: Any, **named: Any) -> Any:
        began, before = time.perf_counter(), sum(self.recorder.seconds.values())
        answer = super().training_step(*args, **named)
        self.recorder.add_seconds(
            "training", time.perf_counter() - began - sum(self.recorder.seconds.values()) + before
        )
        return answer


def reward_function(name: str, recorder: Recorder) -> Any:
    """One of headrace's own reward functions, in TRL's form."""

    def reward(completions: list[str], answer: list[str], completion_ids: list[list[int]], **_: Any) -> list[float]:
        recorder.tokens = sum(map(len, completion_ids))
        values = [
            REWARDS[name](prompt="", completion=text, metadata={"answer": expected})
            for text, expected in zip(completions, answer, strict=True)
        ]
        recorder.rewards[name] = sum(values) / len(values)
        return values

    reward.__name__ = name
    return reward


def main(spec: dict[str, Any]) -> None:
    torch.set_num_threads(spec["threads"])
    recorder = Recorder(path=Path(spec["output"], f"rank-{os.environ.get('RANK', '0')}.jsonl"))
    world = int(os.environ.get("WORLD_SIZE", "1"))
    share = spec["batch"] // world
    rows = [json.loads(line) for line in Path(spec["prompts"]).read_text().splitlines()]
    config = GRPOConfig(
        output_dir=spec["output"],
        use_cpu=True,
        bf16=spec["dtype"] == "bfloat16",
        learning_rate=spec["learning_rate"],
        lr_scheduler_type="constant_with_warmup",
        warmup_steps=spec["warmup_steps"],
        per_device_train_batch_size=min(spec["micro_batch"], share),
        gradient_accumulation_steps=max(1, share // spec["micro_batch"]),
        num_generations=spec["group_size"],
        max_completion_length=spec["max_tokens"],
        max_steps=spec["steps"],
        temperature=1.0,
        beta=spec["kl_coefficient"],
        loss_type="dapo",
        epsilon=0.2,
        epsilon_high=0.28,
        max_grad_norm=1.0,
        gradient_checkpointing=False,
        model_init_kwargs={"dtype": spec["dtype"]},
        report_to=[],
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        **spec["options"],
    )
    trainer = TimedTrainer(
        model=spec["model"],
        reward_funcs=[reward_function(name, recorder) for name in spec["rewards"]],
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(spec["model"], padding_side="left"),
        callbacks=[StepEnds(recorder)],
    )
    trainer.recorder = recorder
    trainer.train()
    if spec["save"]:
        trainer.save_model(spec["save"])


if __name__ == "__main__":
    main(SPEC)
