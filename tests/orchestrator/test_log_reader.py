"""`headrace logs`: files of several processes as one, chosen, coloured, and followed while they grow."""

import json
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest
from orchestrator_folders import a_run
from typer.testing import CliRunner

from orchestrator.cli import app
from orchestrator.folder import RunFolder
from orchestrator.log_reader import command
from orchestrator.log_reader.choice import Choice, choice
from orchestrator.log_reader.entry import parse
from orchestrator.log_reader.merge import Growing
from orchestrator.log_reader.tail import Tail
from orchestrator.log_reader.text import ranges, render

NOON = 1_750_000_000.0


def line(second: float, worker: str, event: str, *, level: str = "info", **extra: object) -> str:
    time = datetime.fromtimestamp(NOON + second, UTC).isoformat(timespec="milliseconds")
    fields = {"time": time, "level": level, "logger": "l", "run": "r", "worker": worker, "event": event}
    return json.dumps(fields | extra) + "\n"


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """Three processes, one of which died in the middle of a line."""
    folder = a_run(tmp_path, "r")
    (folder.logs / "driver.jsonl").write_text(
        line(0, "driver", "prompts issued", groups=[0, 1, 2, 5])
        + line(9, "driver", "worker restarts", level="warning", member="gen-0")
    )
    (folder.logs / "gen-0.jsonl").write_text(
        line(1, "gen-0", "groups generated", groups=[0, 1], version="0/1/3")
        + '{"time": "2025-06-15T12:0\n'
        + line(12, "gen-0", "process up")
    )
    (folder.logs / "rank-0.jsonl").write_text(line(5, "rank-0", "batch committed", step=1, groups=[0, 1]))
    (folder.logs / "rank-0.stacks").write_text("no log\n")
    return folder


def logs(run: RunFolder, *arguments: str) -> list[str]:
    done = CliRunner().invoke(app, ["logs", str(run.path), *arguments])
    assert done.exit_code == 0, done.output
    return done.output.splitlines()


def events(lines: list[str]) -> list[str]:
    return [re.sub(r"  .*", "", text[34:]) for text in lines]


def test_all_files_are_one_by_time(run: RunFolder) -> None:
    found = logs(run)
    assert events(found) == [
        "prompts issued", "groups generated", '{"time": "2025-06-15T12:0', "batch committed", "worker restarts", "process up"
    ]  # fmt: skip
    assert found[0].endswith("driver   info  prompts issued  groups=0–2,5")
    assert "gen-0    warn  {" in found[2], "half a line is shown, as a warning, at the time of the line before"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--role", "gen"], 3),
        (["--role", "gen", "--role", "rank"], 4),
        (["--worker", "rank-0"], 1),
        (["--level", "warning"], 2),
        (["--step", "1"], 1),
        (["--group", "1"], 3),
        (["--group", "5"], 1),
        (["--grep", "0/1/3|restarts"], 2),
        (["--since", "2025-06-15T15:06:46+00:00"], 2),
        (["-n", "2"], 2),
        (["-n", "0"], 0),
        (["--group", "1", "-n", "1"], 1),
    ],
)
def test_lines_are_chosen(run: RunFolder, arguments: list[str], expected: int) -> None:
    assert len(logs(run, *arguments)) == expected


def test_an_age_counts_back_from_now() -> None:
    given = {"roles": (), "workers": (), "grep": None, "level": "debug", "step": None, "group": None}
    assert choice(**given, since="1.5h", now=NOON).since == NOON - 5400  # type: ignore[arg-type]


def test_json_is_an_object_a_line(run: RunFolder) -> None:
    first, *_, last = map(json.loads, logs(run, "--json"))
    assert (first["event"], first["groups"], last["worker"]) == ("prompts issued", [0, 1, 2, 5], "gen-0")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grep", "("], "--grep = (: no regular expression"),
        (["--since", "soon"], "--since = soon: neither an age nor a time; write"),
        (["--worker", "gen-7"], "--worker = gen-7: nobody of that name logs here; there are driver, gen-0, rank-0"),
        (["--role", "judge"], "--role = judge: nobody of that name"),
    ],
)
def test_a_mistake_is_one_line(run: RunFolder, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["logs", str(run.path), *arguments])
    assert (done.exit_code, done.stderr.count("\n")) == (2, 1)
    assert said in done.stderr


def test_a_terminal_is_coloured_and_not_steered() -> None:
    entry = parse(line(0, "gen-0", "said \x1b[2Jé", level="error", answer="\x07", traceback="a\n  b\x1b"), worker="gen-0", before=0)  # fmt: skip
    shown = render(entry, colour=True)
    assert "\x1b[31msaid \\x1b[2Jé\x1b[0m" in shown
    assert [text for text in re.findall(r"\x1b.{3}|\x07", shown) if not re.match(r"\x1b\[\d", text)] == []
    assert shown.splitlines()[1:] == ["    a", "      b\\x1b"]
    assert "\x1b" not in render(entry)


def test_ranges() -> None:
    assert ranges([3, 1, 2, 7, 9, 10]) == "1–3,7,9–10"
    assert ranges([]) == ""


def test_a_tail_gives_each_whole_line_once(tmp_path: Path) -> None:
    path = tmp_path / "f"
    tail = Tail(path)
    assert tail.new() == []
    path.write_bytes(b"one\ntw")
    assert tail.new() == ["one"]
    with path.open("ab") as file:
        file.write(b"o\n\xff\n")
    assert tail.new() == ["two", "\ufffd"]
    os.truncate(path, 0)
    path.write_bytes(b"new\n")
    assert tail.new() == ["new"]


def test_a_line_that_is_taken_back_repeats_none(tmp_path: Path) -> None:
    """A full disk takes a part of a line, which its writer removes again."""
    path = tmp_path / "f"
    tail = Tail(path)
    path.write_bytes(b"one\npart of a li")
    assert tail.new() == ["one"]
    os.truncate(path, 4)
    assert tail.new() == []
    with path.open("ab") as file:
        file.write(b"two\n")
    assert tail.new() == ["two"]


def test_a_tail_begins_near_the_end_of_a_long_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("".join(f"{number:07}\n" for number in range(1000)))
    tail = Tail(path, last_bytes=24)
    assert tail.new() == ["0000997", "0000998", "0000999"]


def test_files_that_appear_later_are_followed(run: RunFolder) -> None:
    growing = Growing(run.logs)
    assert len(growing.new()) == 6
    (run.logs / "gen-1.jsonl").write_text(line(20, "gen-1", "process up"))
    with (run.logs / "driver.jsonl").open("a") as file:
        file.write(line(19, "driver", "worker asked for"))
    assert [entry.event for entry in growing.new()] == ["worker asked for", "process up"]


def test_following_ends_with_the_driver(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Its last words are shown: the lock is looked at before the files."""
    follower = threading.Thread(
        target=lambda: command.logs(run, Choice(level="warning"), last=1, follow=True, as_json=True)
    )
    with run.locked():
        follower.start()
        with (run.logs / "driver.jsonl").open("a") as file:
            file.write(line(30, "driver", "the last word", level="error") + line(31, "driver", "not asked for"))
    follower.join(timeout=30)
    assert not follower.is_alive()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["event"] == "the last word"
