"""The pure parts of the benchmarks: accounts and pictures made of a log, sections of a document, the waits themselves."""

import json
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime

import numpy as np
import pytest

from benchmarks import overlap, records, section, startup, timeline
from benchmarks.stand_ins import VARIABLE, WaitingEngine, Waits
from experience.schema import Sampling
from gen_cluster.config import EngineConfig
from orchestrator.recipe import load
from weightstore.manifest import WeightVersion

SAMPLING = Sampling(temperature=1.0, max_tokens=8, stop_token_ids=(), seed=0)


def write_log(run, worker, *lines):
    """lines: (seconds since 1970, event, further fields)."""
    (run / "logs").mkdir(parents=True, exist_ok=True)
    with (run / "logs" / f"{worker}.jsonl").open("w") as file:
        for at, event, more in lines:
            time = datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds")
            file.write(json.dumps({"time": time, "worker": worker, "event": event, **more}) + "\n")


def test_a_result_accounts_for_all_of_a_step(tmp_path):
    """Each step: 1 s of training, then 0.2 s in which the batch was missing, 0.05 s of copying, 0.15 s of calls."""
    steps = range(1, overlap.STEPS + 1)
    begin = {step: 100 + 1.4 * step for step in steps}
    trained = [(begin[step] + 1.0, "step trained", {"step": step, "seconds": 1.0}) for step in steps]
    committed = [(begin[step] - 0.2, "batch committed", {"step": step}) for step in steps]
    write_log(tmp_path, "rank-0", *trained, *committed)
    versions = [(begin[step] + 1.1, "published", {"step": step, "gather_s": 0.05}) for step in steps]
    write_log(tmp_path, "driver", *versions)
    served = [(begin[step] + 1.3, "version served", {"version": f"0/1/{step}"}) for step in steps]
    account = [
        (begin[step], "engine account", {"since": 1.4 * step, "busy": 1.26 * step, "filled": 0.7 * step, "empty": 0.0})
        for step in steps
    ]
    write_log(tmp_path, "gen-0", *served, *account)
    (tmp_path / "metrics.jsonl").write_text('{"staleness_max": 1.0}\n{"staleness_max": 3.0}\n')

    case = overlap.Case(name="balanced", gen_s=1.0, train_s=1.2, max_staleness=4)
    result = overlap.analyse(case, tmp_path)

    assert result.step_s == pytest.approx(1.4, abs=1e-3)
    assert result.share == pytest.approx(1.2 / 1.4, abs=1e-3)
    lost = (result.trainer_s, result.commit_s, result.publish_s, result.driver_s)
    assert lost == pytest.approx((1.0, 0.2, 0.05, 0.15), abs=2e-3)
    assert (result.filled, result.empty, result.between) == pytest.approx((0.5, 0.0, 0.1), abs=1e-3)
    assert (result.publish_to_serve_s, result.stalest) == pytest.approx((0.3, 3.0), abs=2e-3)
    assert "| balanced | 4 |" in overlap.table([result])


def test_waits_make_a_mean_batch_take_what_the_case_says():
    case = overlap.Case(name="x", gen_s=2.0, train_s=1.0, max_staleness=0)
    waits = overlap.waits(case, [[1] * 8, [3] * 8])  # 16 tokens a group, 128 a batch of 8 groups
    assert waits.train_s_per_token * 128 == pytest.approx(1.0)
    assert waits.decode_s * 128 / overlap.SLOTS == pytest.approx(2.0)


def test_every_case_is_a_valid_recipe(tmp_path):
    for case in overlap.cases():
        (tmp_path / "case.yaml").write_text(json.dumps(overlap.recipe(case, "case")))
        assert load(tmp_path / "case.yaml").pacing.max_staleness == case.max_staleness


def test_the_recorded_lengths_are_whole_groups():
    lengths = json.loads(overlap.RECORDED.read_text())["lengths"]
    assert len(lengths) >= 64
    assert {len(group) for group in lengths} == {overlap.GROUP_SIZE}
    assert all(1 <= length <= 128 for group in lengths for length in group)


def test_the_waiting_engine_answers_with_recorded_lengths_and_the_versions_that_sampled(tmp_path, monkeypatch):
    Waits(lengths=[[9, 9], [3, 1]], decode_s=0.0, train_s_per_token=0.0).write(tmp_path / "waits.json")
    monkeypatch.setenv(VARIABLE, str(tmp_path / "waits.json"))
    engine = WaitingEngine(EngineConfig(max_sequences=4), model_path="")
    engine.served = WeightVersion(0, 1, 7)
    for sample in (0, 1):
        engine.add(f"run/0/5#1/{sample}", tokens=np.zeros(1, np.int32), sampling=SAMPLING, seed=0)

    (short,) = engine.step()
    engine.served = WeightVersion(0, 1, 8)
    assert engine.step() == []
    (long,) = engine.step()

    assert (short.request_id, len(short.tokens)) == ("run/0/5#1/1", 1)
    assert [(span.number, span.start, span.end) for span in long.spans] == [(7, 0, 1), (8, 1, 3)]
    assert engine.running() == 0


def test_parts_of_a_start_follow_one_another(tmp_path):
    write_log(
        tmp_path,
        "driver",
        (12.0, "life begins", {}),
        (12.5, "server_started", {}),
        (14.0, "process asked for", {"member": "gen-0"}),
    )
    write_log(
        tmp_path, "gen-0", (15.0, "process up", {"pid": 1}), (20.0, "vllm imported", {}), (22.0, "version served", {})
    )
    parts = startup.parts(records.read(tmp_path), 10.0)
    assert [(part.worker, part.name, part.begin_s, part.end_s) for part in parts] == [
        ("driver", "libraries, checks of the recipe", 0.0, 2.0),
        ("driver", "Redis", 2.0, 2.5),
        ("gen-0", "process", 4.0, 5.0),
        ("gen-0", "libraries", 5.0, 10.0),
        ("gen-0", "first version", 10.0, 12.0),
    ]
    picture = ElementTree.fromstring(timeline.draw([(p.worker, p.name, p.begin_s, p.end_s) for p in parts]))
    assert len([one for one in picture if one.tag.endswith("rect")]) == 1 + len(parts)


def test_a_section_is_replaced_and_nothing_else(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A\n<!-- begin x -->\nold\n<!-- end x -->\nafter\n")
    for _ in range(2):
        section.replace(page, "x", "new")
    text = page.read_text()
    assert text.startswith("# A\n<!-- begin x -->\nnew\n\n*")
    assert text.endswith("<!-- end x -->\nafter\n")
    assert text.count("new") == 1
    with pytest.raises(ValueError, match="begin y"):
        section.replace(page, "y", "new")
