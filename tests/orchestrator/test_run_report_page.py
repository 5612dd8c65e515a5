"""The page of a run: what stands on it, at any time of a run's life, however damaged its folder."""

import json
import logging
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from orchestrator_folders import a_run
from report_runs import BEGAN, a_healthy_run, a_line, a_reported_run, a_step, commit, iso, said

from orchestrator.console import Console
from orchestrator.folder import RunFolder
from orchestrator.run_report import command, record, samples
from orchestrator.run_report.early import keep_in_background
from orchestrator.run_report.reading import read_lines
from orchestrator.run_report.samples import Sample, kept, paired, read_samples
from orchestrator.run_report.time_use import time_use
from orchestrator.run_report.write import write_at_end, write_comparison, write_report

VOID = {"meta", "br", "line", "rect", "circle", "polyline", "polygon", "path"}
EVALUATION = {"win_rate": 0.7, "win_rate_low": 0.62, "win_rate_high": 0.78, "version": "0/1/20", "settings": "x"}


class Page(HTMLParser):
    """What a browser would make of it: tags in pairs, addresses, texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.found: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID and (tag != "li" or self.open[-1] == "li"):
            assert self.open.pop() == tag


def page_of(run: RunFolder) -> str:
    write_report(run, run.report)
    return run.report.read_text(encoding="utf-8")


def headings(page: str) -> list[str]:
    return [
        re.sub("<[^>]*>", "", found)
        for found in re.findall("<h2>(.*?)</h2>|<figcaption>(.*?)<", page)
        for found in found
        if found
    ]


def test_a_page_tells_all_of_a_healthy_run(tmp_path: Path) -> None:
    run = a_healthy_run(
        tmp_path,
        evaluations=[{**EVALUATION, "step": 20}, {**EVALUATION, "step": 40, "version": "0/1/40"}],
        logs=[
            said("life begins", 0, level="info", logger="orchestrator.life", epoch=1),
            said("worker restarts", 30, member="gen-0", cause="its process died"),
        ],
    )
    for number in (1, 2):
        commit(run, number)
    page = page_of(run)
    seen = Page(page)
    assert "script" not in seen.found
    assert seen.addresses == []
    assert set(re.findall(r"url\((.*?)\)", page)) == {f"#{name}" for name in re.findall('<pattern id="(.*?)"', page)}
    assert '<div class="verdict good"' in page
    told = headings(page)
    for heading in (
        "Where the time went", "Who worked when", "Reward", "Win rate on held-out prompts, 95 % interval", "KL to the reference",
        "Components of the reward, unweighted", "Length of answers", "Cut off at max_tokens", "Variety of a prompt&#x27;s answers",
        "Entropy", "Tokens clipped", "Gradient norm", "Staleness of tokens", "Engine against trainer", "Throughput",
        "Critic: explained variance", "Answers in training, early and late", "Events", "How groups ended",
        "Settings other than the defaults",
    ):  # fmt: skip
        assert heading in told
    assert "Bottleneck: generation. The trainer was at work for 50%" in page
    assert "&lt;b&gt;row 2&lt;/b&gt;" in page  # a prompt of the data
    assert "<b>row" not in page
    assert "its process died" in page


def test_what_others_have_written_is_text_wherever_it_stands(tmp_path: Path) -> None:
    """Prompts, answers, names and words of errors are not ours: each comes with a tag, and none may become one."""

    def evil(word: str) -> str:
        return f"<evil>{word}"

    line = a_line(30.0)
    line["workers"][evil("worker")] = {"wall": {evil("phase"): 20.0, "wait_batch": 10.0}}
    logs = [
        said("worker failed", 5, member=evil("member"), error=evil("error")),
        said(evil("warning"), 6, worker=evil("who")),
    ]
    components = {evil("component"): 1.0, "other": 0.5}
    measures = {f"{evil('model')}.disagreement": 0.5, "other.disagreement": 0.1}
    steps = [a_step(step, reward_components=components, reward_measures=measures) for step in range(1, 5)]
    run = a_reported_run(
        tmp_path, steps=steps, timeline=[a_line(0.0), line], logs=logs, state="failed", cause=evil("cause")
    )
    sample = {"step": 1, "prompt_id": "words:0:7", "prompt": evil("prompt"), "answer": evil("answer"), "tokens": 3}
    run.samples.write_text(json.dumps(sample | {"reward": 0.5}))
    answers = {"before": [{"text": evil("before")}], run.run_id: [{"text": evil("after")}]}
    judged = {"baseline": "before", "answers": [{"prompt": evil("asked"), "answers": answers}]}
    run.evaluation.write_text(json.dumps(judged))
    (run.path / "epochs").mkdir(exist_ok=True)
    life = {"python": evil("python"), "packages": {evil("package"): evil("version")}}
    (run.path / "epochs" / "1.json").write_text(json.dumps({"body": {"life": life}}))
    page = page_of(run)
    assert "evil" not in Page(page).found
    words = (
        "worker phase member error warning who component model cause prompt answer before after asked package version"
    )
    assert {word for word in words.split() if f"&lt;evil&gt;{word}" not in page} == set()


@pytest.mark.parametrize("steps", [0, 1, 2])
def test_a_run_that_has_hardly_begun_has_a_page(tmp_path: Path, steps: int) -> None:
    run = a_reported_run(
        tmp_path, steps=[a_step(step) for step in range(1, steps + 1)], timeline=[a_line(0.0)], state="stopped"
    )
    page = page_of(run)
    Page(page)
    assert f"{steps} {'step was' if steps == 1 else 'steps were'} trained: too few to tell a trend." in page
    assert ("No step was trained." in page) == (steps == 0)


def test_a_run_without_anything_has_a_page(tmp_path: Path) -> None:
    page = page_of(a_run(tmp_path, "bare", state=""))
    Page(page)
    assert ">new</span>" in page


def test_a_run_whose_driver_was_killed_is_called_dead(tmp_path: Path) -> None:
    page = page_of(a_healthy_run(tmp_path, state="running"))
    assert '<span class="state dead">' in page.replace("'", '"')
    assert "Its driver was killed after 40 of 40 steps." in page


DAMAGES: dict[str, Any] = {
    "garbage": lambda path: path.write_bytes(bytes(range(256)) * 8),
    "half": lambda path: path.write_bytes(path.read_bytes()[: len(path.read_bytes()) // 2]),
    "gone": lambda path: path.unlink(),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "another shape": lambda path: path.write_text(
        '[1, {"step": {}}]\n{"step": 3, "workers": 7, "time": [], "reward_components": 1}\n'
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(
    "name", ["metrics", "timeline", "evaluations", "status", "recipe", "log", "samples", "batch", "evaluation"]
)
def test_a_damaged_folder_has_a_page_that_says_so(tmp_path: Path, name: str, damage: str) -> None:
    run = a_healthy_run(
        tmp_path, steps=10, evaluations=[{**EVALUATION, "step": 10}], logs=[said("worker restarts", 30, member="gen-0")]
    )
    commit(run, 1)
    run.samples.write_text(json.dumps({"step": 1, "tokens": 3, "prompt_id": "a:0:0", "reward": 1.0}) + "\n")
    run.evaluation.write_text(json.dumps({"figures": {"told": EVALUATION}, "answers": [{}]}))
    path = {"log": run.logs / "driver.jsonl", "batch": next(run.path.glob("ledger/*/*.batch"))}.get(name) or getattr(
        run, name
    )
    DAMAGES[damage](path)
    page = page_of(run)
    Page(page)
    told = "Not all of this run could be read" in page
    assert told or damage in ("gone", "another shape") or name in ("log", "evaluation", "recipe", "samples", "batch")


def test_damage_is_named(tmp_path: Path) -> None:
    run = a_healthy_run(tmp_path, steps=10)
    with run.metrics.open("a") as file:
        file.write('{"step": 11, "rew')
    assert "metrics.jsonl: 1 damaged line left out" in page_of(run)


def test_secrets_of_addresses_do_not_reach_the_page(tmp_path: Path) -> None:
    logs = [
        said(
            "buffer_retry",
            5,
            logger="experience.redis_client",
            url="redis://u:hunter2@h",
            error="no answer from redis://u:hunter2@h",
        )
    ]
    run = a_healthy_run(tmp_path, logs=logs, state="failed", cause="s3://key:hunter2@bucket did not answer")
    page = page_of(run)
    assert "hunter2" not in page
    assert "redis://…@h" in page


# -- long runs -----------------------------------------------------------------------------------------------------------


def test_of_a_long_file_the_ends_are_whole_and_the_middle_is_sampled(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    path.write_text("".join(json.dumps({"step": step, "pad": "x" * (step % 50)}) + "\n" for step in range(20_000)))
    found = read_lines(path, budget_bytes=64 * 1024)
    steps = [row["step"] for row in found.rows]
    assert found.sampled
    assert found.damaged == 0
    assert len(steps) < 4_000
    assert steps == sorted(set(steps))
    assert steps[:100] == list(range(100))
    assert steps[-100:] == list(range(19_900, 20_000))
    assert max(b - a for a, b in pairwise(steps)) < 100


def test_a_line_longer_than_the_samples_are_apart_counts_once(tmp_path: Path) -> None:
    path = tmp_path / "long.jsonl"
    lines = [json.dumps({"step": step, "pad": "x" * (200_000 if step == 5_000 else 10)}) for step in range(10_000)]
    path.write_text("\n".join(lines) + "\n")
    steps = [row["step"] for row in read_lines(path, budget_bytes=32 * 1024).rows]
    assert steps == sorted(set(steps))


def test_a_hundred_thousand_steps_are_drawn_in_a_bounded_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(record, "METRICS_BYTES", 512 * 1024)
    run = a_reported_run(tmp_path)
    run.metrics.write_text(
        "".join(
            f'{{"step": {step}, "reward_mean": {step % 7}, "kl_per_response": 1.0}}\n' for step in range(1, 100_001)
        )
    )
    page = page_of(run)
    Page(page)
    assert "metrics.jsonl is long" in page
    assert "100000 of 4 steps" in page
    assert len(page) < 200_000
    assert 'class="b0"' in page  # the range of what was averaged


# -- time ----------------------------------------------------------------------------------------------------------------


def test_active_time_leaves_out_what_lies_between_two_lives() -> None:
    day = 86_400.0
    use = time_use(
        [a_line(0.0), a_line(50.0), a_line(0.0, epoch=3, began=BEGAN + day), a_line(30.0, epoch=3, began=BEGAN + day)]
    )
    assert use.total_s == pytest.approx(80)
    assert [life.start_s for life in use.lives] == pytest.approx([0, 50])
    assert use.at(BEGAN + 20) == pytest.approx(20)
    assert use.at(BEGAN + 1000) == pytest.approx(50)
    assert use.at(BEGAN + day + 10) == pytest.approx(60)
    assert use.wall["gen-0"] == pytest.approx({"generate": 80})
    assert use.waited == pytest.approx({"start": 20, "generation": 40, "training": 40})


def test_a_worker_whose_clock_fell_has_begun_anew() -> None:
    lines = [a_line(10.0), a_line(20.0), a_line(30.0)]
    lines[2]["workers"]["gen-0"]["wall"] = {"start": 4.0, "generate": 3.0}
    use = time_use(lines)
    assert use.wall["gen-0"] == pytest.approx({"generate": 23, "start": 4})
    piece = [piece for piece in use.slices if piece.worker == "gen-0"][-1]
    assert (piece.start_s, piece.end_s) == pytest.approx((23, 30))  # what it did before it died, nobody has heard
    assert piece.shares == pytest.approx({"generate": 3 / 7, "start": 4 / 7})


def test_a_report_seen_again_is_no_idleness() -> None:
    """A rank that trains for 6 s answers nobody meanwhile: two lines show it as it was before, the third all that it did."""
    lines = [a_line(float(at)) for at in (2, 4, 6, 8)]
    for line, train in zip(lines, (2.0, 2.0, 2.01, 8.0), strict=True):
        line["workers"] = {"rank-0": {"wall": {"train": train, "wait_batch": 0.0}}}
    use = time_use(lines)
    assert [(piece.start_s, piece.end_s) for piece in use.slices] == [(0, 2), (2, 8)]
    assert use.wall == {"rank-0": pytest.approx({"train": 8, "wait_batch": 0})}


def test_a_worker_is_drawn_from_its_birth() -> None:
    lines = [a_line(10.0), a_line(12.0)]
    lines[0]["workers"] = {}
    lines[1]["workers"] = {"gen-0": {"wall": {"start": 7.0, "generate": 1.0}}}
    assert [(piece.start_s, piece.end_s) for piece in time_use(lines).slices] == [(4, 12)]


def test_many_workers_under_one_name_are_their_mean() -> None:
    line = a_line(10.0) | {"workers": {"gen*": {"count": 20, "wall": {"generate": 150.0, "wait_prompts": 50.0}}}}
    use = time_use([line])
    assert use.wall == {"gen*": pytest.approx({"generate": 7.5, "wait_prompts": 2.5})}


# -- samples -------------------------------------------------------------------------------------------------------------


def a_sample(prompt_id: str, step: int) -> Sample:
    return Sample(step=step, prompt_id=prompt_id, prompt="p", answer=f"{step}", reward=0.5, tokens=3, cut=False)


def test_answers_to_one_prompt_stand_side_by_side() -> None:
    early = [a_sample("words:0:4", 1), a_sample("words:0:5", 1)]
    late = [a_sample("words:3:7", 9), a_sample("words:3:5", 9)]
    pairs = paired(early, late)
    assert [(a and a.prompt_id, b and b.prompt_id) for a, b in pairs] == [
        ("words:0:5", "words:3:5"),
        ("words:0:4", "words:3:7"),
    ]


def test_first_answers_outlive_the_ledger(tmp_path: Path) -> None:
    run = a_healthy_run(tmp_path)
    commit(run, 1)
    ledger = samples_ledger(run)
    samples.keep_first(run, ledger, lambda tokens: "said")
    commit(run, 2)
    samples.keep_first(run, ledger, lambda tokens: "said again")  # nothing is added
    ledger.prune(2)
    early = record.read_run(run).early
    assert [(one.step, one.answer) for one in early] == [(1, "said"), (1, "said")]
    assert [one.step for one in record.read_run(run).late] == [2, 2]


def samples_ledger(run: RunFolder) -> Any:
    from experience.ledger import Ledger
    from weightstore.blobs import FileBlobStore

    return Ledger(FileBlobStore(run.path), lineage=0)


def test_the_driver_keeps_them_in_the_background(tmp_path: Path) -> None:
    import threading

    from orchestrator import recipe as recipes

    run = a_healthy_run(tmp_path)
    commit(run, 1)
    keep_in_background(recipes.load_dumped(run.recipe), run)
    for thread in threading.enumerate():
        if thread.name == "early-samples":
            thread.join()
    assert [one.answer for one in kept(read_samples(run))] == [
        "0 1 2 3",
        "0 1 2 3",
    ]  # no tokenizer: the tokens' numbers


# -- by whom it is written -----------------------------------------------------------------------------------------------


def test_what_goes_wrong_at_the_end_of_a_life_is_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_healthy_run(tmp_path)
    run.report.mkdir()
    with caplog.at_level(logging.WARNING), Console() as console:
        write_at_end(run, console)
    assert "report not written" in caplog.text
    assert "warning:" in capsys.readouterr().err


def test_the_command_prints_the_verdict_and_where_the_page_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = a_healthy_run(tmp_path)
    command.run(run.path, None, out=None, as_json=False)
    said_lines = capsys.readouterr().out.splitlines()
    assert said_lines[0].startswith("Good: the reward rose")
    assert said_lines[1] == f"report: {run.report}"
    command.run(run.path, None, out=tmp_path / "elsewhere.html", as_json=True)
    content = json.loads(capsys.readouterr().out)
    assert (content["verdict"], content["state"]) == ("good", "completed")
    assert content["bottleneck"] == {"stage": "generation", "share": 0.5}
    assert content["figures"]["steps"] == 40
    assert Path(content["report"]).exists()


def test_a_page_that_cannot_be_written_is_the_users_to_mend(tmp_path: Path) -> None:
    run = a_healthy_run(tmp_path)
    with pytest.raises(ValueError, match=r"--out = .*remedy: name a file that can be written"):
        command.run(run.path, None, out=tmp_path / "no" / "such" / "folder.html", as_json=False)
    with pytest.raises(ValueError, match="is the first run itself"):
        command.run(run.path, run.path, out=None, as_json=False)


def test_two_runs_on_one_page(tmp_path: Path) -> None:
    first, second = a_healthy_run(tmp_path, "one"), a_healthy_run(tmp_path, "two", steps=60)
    second.recipe.write_text(second.recipe.read_text().replace("max_staleness: 4", "max_staleness: 3"))
    content = write_comparison(first, second, tmp_path / "both.html")
    page = (tmp_path / "both.html").read_text()
    Page(page)
    assert content["better"] == "B"
    assert page.count('<div class="verdict') == 3
    assert page.count('class="s1"') >= 10
    assert "<code>pacing.max_staleness</code></td><td>4</td><td>3</td>" in page
    assert content["runs"][0]["figures"]["steps"] == 40


def test_two_lives_are_marked_in_the_curves(tmp_path: Path) -> None:
    steps = [a_step(step) for step in range(1, 11)] + [
        a_step(step, epoch=3, time=iso(BEGAN + 5000 + step)) for step in range(9, 21)
    ]
    page = page_of(
        a_reported_run(tmp_path, steps=steps, timeline=[a_line(40.0), a_line(20.0, epoch=3, began=BEGAN + 5000)])
    )
    assert page.count(">life 2</text>") > 10
