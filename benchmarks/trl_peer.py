"""TRL as a peer: how it can be run, and one run of it in processes of its own."""

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measured_run import REPOSITORY, environment


@dataclass(frozen=True, kw_only=True)
class Peer:
    """How TRL is run."""

    processes: int = 1
    """Data-parallel, each with a share of the batch."""
    threads: int = 2
    """A process."""
    dtype: str = "float32"
    micro_batch: int = 32
    """Completions of a forward and backward pass; more and fewer cost more CPU seconds."""
    generator: str = "transformers generate, dynamic cache"


GENERATORS: Mapping[str, Mapping[str, Any]] = {
    "transformers generate, dynamic cache": {},
    "transformers generate, static cache": {"cache_implementation": "static"},
    "transformers continuous batching": {"use_transformers_continuous_batching": True},
    "vLLM in the trainer's process": {"use_vllm": True, "vllm_mode": "colocate", "vllm_max_model_length": 192},
}
"""What TRL 1.16 offers, as options of GRPOConfig."""


def run_trl(spec: Mapping[str, Any], folder: Path, *, processes: int, limit_s: float) -> list[list[dict[str, Any]]]:
    """The lines of each rank by step. RuntimeError: it failed, with the end of what it said."""
    shutil.rmtree(spec["output"], ignore_errors=True)
    Path(spec["output"]).mkdir(parents=True)
    path = folder / "trl.json"
    path.write_text(json.dumps(spec))
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, "-m", "benchmarks.trl_run", str(path)]
    with (folder / "trl.err").open("w") as errors:
        try:
            done = subprocess.run(
                command,
                stdout=errors,
                stderr=errors,
                timeout=limit_s,
                env=environment(),
                cwd=REPOSITORY,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"TRL did not end within {limit_s:.0f} s") from error
    if done.returncode:
        raise RuntimeError("\n".join((folder / "trl.err").read_text().strip().splitlines()[-15:]))
    files = [Path(spec["output"], f"rank-{rank}.jsonl") for rank in range(processes)]
    return [[json.loads(line) for line in file.read_text().splitlines()] for file in files]
