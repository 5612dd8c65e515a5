"""The documents against the code: what they link to, type, quote and list must be what exists."""

import ast
import re
import runpy
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from orchestrator import recipe as recipes
from orchestrator.cli import app
from orchestrator.evaluation.keys import KEYS
from orchestrator.rules.every import RULES
from score_cluster import rewards
from score_cluster.reward_config import FunctionRewardConfig
from train_cluster.report import CriticReport, StepReport

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
GROUP = typer.main.get_command(app)
assert isinstance(GROUP, TyperGroup)
COMMANDS = GROUP.commands
PACKAGES = ("experience", "gen_cluster", "orchestrator", "score_cluster", "train_cluster", "weightstore")

LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")
ANCHOR = re.compile(r"\[[^\]]*\]\((?P<page>[^)#:\s]*)#(?P<anchor>[^)]+)\)")
BLOCK = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`(headrace [^`]+)`")

by_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def blocks(page: Path, language: str) -> list[str]:
    return [match["text"] for match in BLOCK.finditer(page.read_text()) if match["language"] == language]


def command_lines(page: Path) -> Iterator[str]:
    """Every `headrace …` that a page shows, in blocks (comments cut off) and within lines."""
    text = page.read_text()
    for block in blocks(page, ""):
        yield from (line.strip() for line in block.splitlines() if line.strip().startswith("headrace "))
    yield from INLINE.findall(BLOCK.sub("", text))


@by_page
def test_relative_links_lead_somewhere(page: Path) -> None:
    targets = [target for target in LINK.findall(page.read_text()) if "://" not in target]
    assert [target for target in targets if not (page.parent / target).exists()] == []


def headings(page: Path) -> set[str]:
    """As links name them: lower case, without punctuation, hyphens for spaces."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@by_page
def test_links_lead_to_headings_that_are_there(page: Path) -> None:
    found = [(link["page"], link["anchor"]) for link in ANCHOR.finditer(page.read_text())]
    missing = [link for link in found if link[1] not in headings(page.parent / link[0] if link[0] else page)]
    assert missing == []


@by_page
def test_shown_commands_parse(page: Path) -> None:
    """By the command's own parser, which knows its subcommands and options; nothing is run."""
    for line in command_lines(page):
        name, *arguments = shlex.split(line, comments=True)[1:]
        assert name in COMMANDS, line
        if arguments:  # `headrace stop` within a sentence only names the command
            COMMANDS[name].make_context(name, arguments)


def test_the_parser_would_notice() -> None:
    with pytest.raises(Exception, match="No such option"):
        COMMANDS["run"].make_context("run", ["recipe.yaml", "--no-such-option"])


@by_page
def test_shown_recipes_are_valid(page: Path, tmp_path: Path) -> None:
    for number, text in enumerate(blocks(page, "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert recipes.load(path).run.name


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda path: path.name)
def test_shipped_recipes_are_valid(path: Path) -> None:
    """In structure: the files that they name are made by `prepare`."""
    assert recipes.load(path).run.name == path.stem


def test_shown_reward_function_loads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (source,) = blocks(DOCS / "recipes.md", "python")
    (tmp_path / "my_rewards.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    config = FunctionRewardConfig(name="word", function="my_rewards:mentions", arguments={"word": "water"})
    call = {"prompt": "", "metadata": {}, "word": "water"}
    function = rewards.load(config).function
    assert (function(completion="Cold Water", **call), function(completion="wine", **call)) == (1.0, 0.0)


def test_recipes_page_is_up_to_date() -> None:
    page = runpy.run_path(str(DOCS / "generate_recipes.py"))["page"]
    assert (DOCS / "recipes.md").read_text() == page(), "run python docs/generate_recipes.py"


def test_every_rule_between_sections_has_a_line() -> None:
    section = (DOCS / "recipes.md").read_text().partition("## Rules between sections")[2].partition("<!--")[0]
    rows = [line for line in section.splitlines() if line.startswith("|")]
    assert len(rows) - 2 == len(RULES)


DECLARATIONS = ("Counter", "Gauge", "LateGauge", "Histogram", "GaugeMetricFamily", "WallSeconds")
LABELS = ("labelnames", "labels")


def declared_metrics() -> dict[str, set[str]]:
    """{exported name: labels} of every prometheus_client object in the packages."""
    found = {}
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*.py"):
            for call in (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)):
                kind = getattr(call.func, "id", getattr(call.func, "attr", ""))
                if kind in DECLARATIONS and call.args and isinstance(call.args[0], ast.Constant):
                    name = str(call.args[0].value)
                    suffix = "_total" if kind == "Counter" and not name.endswith("_total") else ""
                    given = [*call.args[2:3], *(word.value for word in call.keywords if word.arg in LABELS)]
                    found[name + suffix] = set(ast.literal_eval(given[0])) if given else set()
    return found


def test_metrics_page_lists_what_the_code_declares() -> None:
    row = re.compile(r"^\| `(headrace_\w+)` \|([^|]*)\|", re.MULTILINE)
    listed = {
        name: set(re.findall(r"`(\w+)`", labels)) for name, labels in row.findall((DOCS / "metrics.md").read_text())
    }
    assert listed == declared_metrics()


UNITS = (
    "seconds",
    "bytes",
    "ratio",
    "nats",
    "tokens",
    "versions",
    "version",
    "steps",
    "step",
    "groups",
    "batches",
    "epoch",
)
"""Base units, and things that are counted."""
COUNTED_THINGS = frozenset(
    {
        "clients",
        "dropped",
        "entries",
        "failures",
        "finished",
        "fsyncs",
        "leases",
        "preemptions",
        "prompts",
        "quarantined",
    }
    | {"redeliveries", "requests", "restarts", "retries", "running", "samples", "sequences", "up", "updates", "waiting"}
)
WITHOUT_UNIT = (
    "reward",
    "loss",
    "norm",
    "std",
    "mean",
    "spread",
    "correlation",
    "coefficient",
    "rate",
    "ok",
    "enabled",
)
"""Endings of figures in the unit of rewards, in none, and of answers of yes and no."""
NAMED_OTHERWISE = {
    "headrace_train_reward_component",
    "headrace_train_reward_measure",
    "headrace_eval_reward_component",
    "headrace_score_disagreement",  # of rewards
    "headrace_score_kl_target_below_noise",  # yes or no
    "headrace_run_steps_planned",
}
LABEL_NAMES = frozenset(
    {"action", "attempt", "component", "gpu", "kind", "measure", "n", "outcome", "path"}
    | {"phase", "reason", "result", "sink", "stage", "stream"}
)
"""Each has few values: names of a recipe's rewards, or a set that the code or this page closes. None is a label that every
target has (run, role, worker), which would hide it."""


def test_names_of_metrics_end_in_base_units() -> None:
    endings = (*UNITS, *COUNTED_THINGS, *WITHOUT_UNIT)
    odd = [
        name
        for name in sorted(declared_metrics().keys() - NAMED_OTHERWISE)
        if name.removesuffix("_total").rpartition("_")[2] not in endings
    ]
    assert odd == []


def test_labels_are_few_and_known() -> None:
    assert set().union(*declared_metrics().values()) <= LABEL_NAMES


def test_algorithms_page_lists_the_fields_of_a_report() -> None:
    section = (DOCS / "algorithms.md").read_text().partition("## What each step reports")[2]
    for part, record in zip(section.split("### The critic's numbers"), (StepReport, CriticReport), strict=True):
        rows = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
        assert re.findall(r"`(\w+)`", " ".join(rows)) == [field.name for field in fields(record)]


def test_evaluation_page_explains_every_figure() -> None:
    rows = dict(re.findall(r"^\| `([^`]+)` \| (.*) \|$", (DOCS / "evaluation.md").read_text(), re.MULTILINE))
    assert {name: rows.get(name) for name in KEYS} == dict(KEYS)
