"""The command as a user runs it: each mistake is one line and exit code 2, and touches nothing."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from orchestrator_folders import sections, write_rows

from orchestrator import cli, commands, disk, yamlfile
from orchestrator import recipe as recipes
from orchestrator.folder import RunFolder

HEADRACE = str(Path(sys.executable).with_name("headrace"))


def headrace(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([HEADRACE, *arguments], cwd=cwd, capture_output=True, text=True, timeout=120)


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """Every path below with its size and the time of its last change."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in folder.rglob("*")}


@pytest.fixture
def workplace(tmp_path) -> Path:
    """A recipe without its model, `runs/trial` that was created from it and killed at once, and a folder `out`."""
    (tmp_path / "trial.yaml").write_text(yamlfile.render(sections()))
    write_rows(tmp_path / "d.jsonl", [{"prompt": "abc"}])
    folder = RunFolder(tmp_path / "runs" / "trial")
    folder.create()
    folder.write(folder.recipe, recipes.dump(recipes.load(tmp_path / "trial.yaml", [f"run.root={tmp_path / 'runs'}"])))
    (tmp_path / "out").mkdir()
    return tmp_path


TOO_LONG = "x" * 300
"""No file can have such a name."""

MISTAKES = [
    ("frobnicate", "No such command 'frobnicate'", "headrace --help"),
    ("run trial.yaml --replay trial", "name either a RECIPE", "--replay RUN"),
    ("run nope.yaml", "nope.yaml: cannot be read (No such file or directory)", "name a recipe"),
    ("run trial.yaml run.name=other training.optimizer.lr=1e-5", "training.optimizer.lr = 1e-05: there is no such key", "the nearest is training.optimizer.learning_rate"),
    ("run trial.yaml", "run.name = trial: ", "holds a run already; remedy: `headrace resume "),
    ("resume nope", "RUN = nope: no run there and none at runs/nope", "name a run's folder"),
    ("resume trial training.optimizer.learning_rate=1e-3", "training.optimizer.learning_rate = 0.001: this run was started with", "or start another run"),
    ("stop trial", "runs/trial: no driver is running here", "nothing to stop"),
    ("audit trial", "runs/trial/ledger: no batch was committed yet", "nothing to audit"),
    ("export trial out", "OUT = out: exists already", "name a folder that does not"),
]  # fmt: skip
"""Tried with the real command; those below through its `main`, which takes milliseconds."""

MORE_MISTAKES = [
    ("--frobnicate", "No such option: --frobnicate", "headrace --help"),
    ("run --jsn trial.yaml", "No such option: --jsn", "--json"),
    ("resume", "Missing argument 'RUN'", "headrace resume --help"),
    ("run", "name either a RECIPE", "--replay RUN"),
    ("run --replay trial --dry-run", "name either a RECIPE", "--replay RUN"),
    ("run runs", "runs: cannot be read (Is a directory)", "name a recipe"),
    ("run trial.yaml run.name=other pacing.max_staleness=-1", "pacing.max_staleness = -1: out of range", "at least 0"),
    ("run trial.yaml run.name=other", "model.path = ", "give the folder of a Hugging Face model"),
    ("run trial.yaml run.name=other --dry-run", "model.path = ", "give the folder of a Hugging Face model"),
    ("resume runs/trial run.steps=3", "run.steps = 3: this run was started with 4", "4 or more"),
    ("resume trial run.nam=x", "run.nam = x: there is no such key", "the nearest is run.name"),
    ("status nope", "RUN = nope: no run there", "name a run's folder"),
    ("status trial", "runs/trial: the run has not started", "`headrace resume "),
    ("stop trial --now", "runs/trial: no driver is running here", "nothing to stop"),
    ("export trial new", "runs/trial: the run has published no weights yet", "let it train a step"),
    ("sft trial.yaml", "sft = null: this recipe describes no fine-tuning", "add an sft section"),
    (f"runs ls {TOO_LONG}", "ROOT = xxx", "name one that holds runs"),
    (f"runs rm {TOO_LONG}", "RUN = xxx", "`headrace runs ls` lists them"),
    (f"runs rm --state failed --root {TOO_LONG}", "ROOT = xxx", "name one that holds runs"),
]  # fmt: skip


@pytest.mark.parametrize(("command", "reason", "remedy"), MISTAKES, ids=[mistake[0] for mistake in MISTAKES])
def test_a_mistake_is_one_line_and_touches_nothing(workplace, command, reason, remedy):
    before = tree(workplace)
    done = headrace(*command.split(), cwd=workplace)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert_one_line(done.stderr, reason, remedy)
    assert tree(workplace) == before


@pytest.mark.parametrize(
    ("command", "reason", "remedy"), MORE_MISTAKES, ids=[mistake[0][:50] for mistake in MORE_MISTAKES]
)
def test_so_is_any_other_mistake(workplace, monkeypatch, capsys, command, reason, remedy):
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["headrace", *command.split()])
    before = tree(workplace)
    with pytest.raises(SystemExit) as end:
        cli.main()
    shown = capsys.readouterr()
    assert (end.value.code, shown.out) == (2, "")
    assert_one_line(shown.err, reason, remedy)
    assert tree(workplace) == before


def assert_one_line(shown: str, reason: str, remedy: str) -> None:
    assert shown.count("\n") == 1
    assert shown.startswith("headrace: ")
    assert reason in shown
    assert remedy in shown


def test_several_mistakes_are_a_line_each(workplace):
    done = headrace("run", "trial.yaml", "run.name=My Run", "run.steps=0", "generation.top_p=0.9", cwd=workplace)
    assert done.returncode == 2
    assert [line.split(" = ")[0] for line in done.stderr.splitlines()] == [
        "headrace: run.name",
        "headrace: run.steps",
        "headrace: generation.top_p",
    ]


def test_a_replay_of_a_run_that_published_nothing_is_refused(workplace):
    """It looks after it has taken the run's lock, and leaves no more than that and its log."""
    done = headrace("run", "--replay", "trial", cwd=workplace)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"headrace: {workplace / 'runs/trial'}: the run has published nothing yet, so there is nothing to compare with\n"
    )


@pytest.mark.parametrize("command", ["resume trial", "audit trial", "run --replay trial", "export trial new"])
def test_a_recipe_that_lost_its_end_is_refused_by_all_that_read_it(workplace, monkeypatch, capsys, command):
    """It parses, and defaults would stand in for what is missing."""
    recipe = workplace / "runs/trial/recipe.yaml"
    lines = recipe.read_text().splitlines(keepends=True)
    recipe.write_text("".join(lines[: lines.index("training:\n")]))
    recipes.load(recipe)
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["headrace", *command.split()])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert_one_line(capsys.readouterr().err, f"{recipe}: is cut short", "restore it from a copy")


def test_a_living_run_is_stopped_whatever_became_of_its_recipe(workplace, monkeypatch, capsys):
    folder, asked = RunFolder(workplace / "runs/trial"), []
    monkeypatch.setattr(sys, "argv", ["headrace", "stop", str(folder.path)])
    before = signal.signal(signal.SIGTERM, lambda number, _: asked.append(number))
    try:
        with folder.locked():
            folder.recipe.write_text("{")
            with pytest.raises(SystemExit) as end:
                cli.main()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (end.value.code, asked) == (None, [signal.SIGTERM]), capsys.readouterr().err


def test_an_error_of_ours_is_one_line_too(monkeypatch, capsys):
    def broken(*_, **__):
        raise KeyError("steps")

    monkeypatch.setattr(commands, "status", broken)
    monkeypatch.setattr(sys, "argv", ["headrace", "status", "trial"])
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert said.startswith("headrace: internal error: KeyError: ")
    assert "HEADRACE_DEBUG=1" in said


def test_a_status_that_lacks_what_is_told_is_shown_as_it_is(workplace):
    (workplace / "runs/trial/status.json").write_text('{"state": "completed", "step": 1}')
    done = headrace("status", "trial", cwd=workplace)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "status.json: is not as this version writes it (KeyError: 'steps'); remedy: --json" in done.stderr


def test_status_tells_a_killed_driver_from_a_living_one(workplace):
    folder = RunFolder(workplace / "runs" / "trial")
    folder.write_json(folder.status, {"run": "trial", "state": "running"})
    assert json.loads(headrace("status", "trial", "--json", cwd=workplace).stdout) == {
        "run": "trial",
        "state": "dead",
        "cause": f"its driver was killed; `headrace resume {folder.path}` goes on",
        "disk_bytes": disk.bytes_below(folder.path),
    }
    with folder.locked():
        done = headrace("status", "runs/trial", cwd=workplace)
    used = disk.size(disk.bytes_below(folder.path))
    assert (done.returncode, done.stdout, done.stderr) == (0, f"trial  running\ndisk: {used} in its folder\n", "")


@pytest.mark.parametrize("content", ["", "{", '{"state": "failed"}'])
def test_a_status_that_was_cut_short_hinders_no_resume(workplace, monkeypatch, capsys, content):
    """It is refused for what is wrong with it: here, that its model is not there."""
    (workplace / "runs/trial/status.json").write_text(content)
    monkeypatch.chdir(workplace)
    monkeypatch.setattr(sys, "argv", ["headrace", "resume", "trial"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "model.path = " in capsys.readouterr().err


def test_status_of_a_run_on_another_host_does_not_call_it_dead(workplace):
    folder = RunFolder(workplace / "runs" / "trial")
    folder.write_json(folder.status, {"run": "trial", "state": "running", "updated": "noon"})
    (folder.path / "driver.lock").write_text("7 elsewhere")
    content = json.loads(headrace("status", "trial", "--json", cwd=workplace).stdout)
    assert content["state"] == "running"
    assert content["cause"] == "if host elsewhere is alive, which its lock does not tell here; last word: noon"


HOLDER = """
import sys
from pathlib import Path
from orchestrator.folder import RunFolder
with RunFolder(Path("runs/trial")).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("option", "number", "word"),
    [
        ((), signal.SIGTERM, "asked to stop"),
        (("--now",), signal.SIGKILL, "killed"),
        (("--wait", "--now"), signal.SIGKILL, "killed"),
    ],
)
def test_stop_reaches_the_driver_and_nobody_else(workplace, option, number, word):
    driver = subprocess.Popen(
        [sys.executable, "-c", HOLDER], cwd=workplace, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    driver.stdout.readline()
    done = headrace("stop", "trial", *option, cwd=workplace)
    assert done.returncode == 0
    assert done.stdout.startswith(f"{word}: driver process {driver.pid}; `headrace resume ")
    assert ("--wait" in option) == done.stdout.endswith("new at step 0 of 0\n")
    assert driver.wait(timeout=30) == -number
    driver.communicate()


HELP = """
import sys
from orchestrator.cli import main
sys.argv = ["headrace", *sys.argv[1:]]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
heavy = {"ray", "torch", "transformers", "vllm", "deepspeed", "redis", "safetensors", "numpy"} & sys.modules.keys()
assert not heavy, heavy
"""


def test_help_answers_at_once_and_loads_nothing_heavy(workplace):
    subprocess.run([sys.executable, "-c", HELP, "--help"], check=True, capture_output=True)
    spent = []
    for _ in range(2):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = headrace("--help", cwd=workplace)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert done.returncode == 0
    for name in ("run", "resume", "status", "stop", "audit", "sft", "export"):
        assert f" {name} " in done.stdout
    assert min(spent) < 0.5


def test_the_commands_that_people_repeat_load_nothing_heavy_either(workplace):
    folder = RunFolder(workplace / "runs" / "trial")
    folder.write_json(folder.status, {"run": "trial", "state": "completed"})
    light = HELP.replace(', "numpy"', "")
    for command in ("run --help", "status trial"):
        done = subprocess.run(
            [sys.executable, "-c", light, *command.split()], cwd=workplace, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr


INTERRUPTED = """
import os, signal, sys
module = sys.argv[1]
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupt())
from orchestrator.entry import main
sys.argv = ["headrace", "status", "trial"]
main()
"""


@pytest.mark.parametrize(
    ("module", "code"),
    [("orchestrator.cli", -signal.SIGINT), ("typer", -signal.SIGINT), ("orchestrator.commands", 130)],
)
def test_ctrl_c_shows_no_traceback_however_early(workplace, module, code):
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, module], cwd=workplace, capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, "", "")


def test_without_a_command_the_help_is_shown(workplace):
    done = headrace(cwd=workplace)
    assert done.returncode == 2
    assert "Usage: headrace" in done.stdout + done.stderr


def test_the_command_works_from_any_folder(workplace):
    """A relative path in a recipe is relative to the recipe; a run's folder is where run.root says."""
    elsewhere = workplace / "elsewhere"
    elsewhere.mkdir()
    done = headrace("run", str(workplace / "trial.yaml"), cwd=elsewhere)
    assert f"model.path = {workplace / 'm'}: " in done.stderr
    assert os.listdir(elsewhere) == []
