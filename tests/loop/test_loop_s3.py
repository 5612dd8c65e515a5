"""The same recipe file with its store in a bucket: weights, checkpoints, ledger and epochs over HTTP, from every process;
and an evaluator beside the training, whose pins are in the bucket and whose results are in the run's folder.

Some 75 s: one life of the loop and the ranks of its replay, since only the real command joins them all; 15 s of it are the
start of the evaluator's engine.
"""

import json
from pathlib import Path

import s3_server
from loop_commands import as_json, headrace, succeeded

from weightstore.address import parse_address
from weightstore.s3 import S3BlobStore

STEPS = 3
EVALUATION = (
    "evaluation.path=data/heldout.jsonl",
    f"evaluation.interval_steps={STEPS}",
    "evaluation.limit=16",
)


def test_a_run_in_a_bucket_is_audited_exported_and_replayed_bit_for_bit(
    workplace: Path, s3_url: str, s3_endpoint: str, tmp_path: Path
) -> None:
    run, store = workplace / "runs" / "bucket", f"store.url={s3_url}"
    grpo = "training.algorithm={kind: grpo}"  # every other loop has a critic
    settings = ["run.name=bucket", f"run.steps={STEPS}", grpo, store, *EVALUATION]
    succeeded("run", "small.yaml", *settings, cwd=workplace)
    status = as_json("status", run, cwd=workplace)
    assert (status["state"], status["step"], status["published"], status["saved"]) == ("completed", STEPS, STEPS, STEPS)
    assert not {"weights", "checkpoints", "ledger", "epochs"} & {path.name for path in run.iterdir()}

    blobs = S3BlobStore(parse_address(f"{s3_url}/bucket"), threads=1, retry_s=10.0, scratch_folder=tmp_path)
    kinds = {key.partition("/")[0] for key in blobs.list("")}
    assert {"weights", "checkpoints", "ledger", "epochs"} <= kinds
    assert "probe" not in kinds

    balance = as_json("audit", run, cwd=workplace)
    assert balance["balanced"]
    assert balance["outcomes"]["trained"] == STEPS * 4
    exported = as_json("export", run, tmp_path / "policy", cwd=workplace)
    again = as_json("run", "--replay", run, cwd=workplace)
    assert again["to_step"] == STEPS
    assert again["identical"]
    assert again["digest"] == exported["digest"]

    the_last_version_was_evaluated(run, exported["digest"], tmp_path, cwd=workplace)
    written = "".join(path.read_text(errors="replace") for path in run.rglob("*") if path.is_file())
    secret = s3_server.environment(s3_endpoint)["AWS_SECRET_ACCESS_KEY"]
    assert secret not in written


def the_last_version_was_evaluated(run: Path, digest: str, tmp_path: Path, *, cwd: Path) -> None:
    """It is the only one that was due, hence the best: pinned, exported, shown."""
    (line,) = [json.loads(line) for line in (run / "evaluations.jsonl").read_text().splitlines()]
    assert (line["step"], line["prompts"]) == (STEPS, 16)
    assert 0 <= line["win_rate_low"] <= line["win_rate"] <= line["win_rate_high"] <= 1
    assert {"reward.characters", "kl", "length", "distinct_3", "seconds"} <= line.keys()
    evaluation = as_json("status", run, cwd=cwd)["evaluation"]
    assert (evaluation["last"], evaluation["best"], evaluation["doing"]) == (line, line, "idle")
    best = as_json("export", run, tmp_path / "best", "--version", "best", cwd=cwd)
    assert (best["version"], best["digest"]) == (line["version"], digest)
    assert (run / "best/model.safetensors").read_bytes() == (tmp_path / "best/model.safetensors").read_bytes()
    assert json.loads((run / "targets.json").read_text()) == []  # nobody is left to be scraped


def test_a_bucket_that_is_not_there_is_refused_before_anything_is_written(workplace: Path, s3_url: str) -> None:
    missing = s3_url.replace(s3_server.BUCKET, "no-such-bucket")
    done = headrace("run", "small.yaml", "run.name=nowhere", f"store.url={missing}", cwd=workplace)
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if "store.url" in line]
    assert line.startswith(f"headrace: store.url = {missing}: cannot write {missing}/nowhere/probe/")
    assert "NoSuchBucket; create the bucket, or correct store.url" in line
    assert not (workplace / "runs" / "nowhere").exists()
    succeeded("run", "small.yaml", "run.name=nowhere", f"store.url={missing}", "--dry-run", cwd=workplace)
