"""The command: parse, check, do, and turn what went wrong into one line and an exit code.

Exit codes: 0 done (or stopped cleanly), 1 the run failed, 2 the user's mistake, 130 interrupted.
Heavy libraries are imported by the commands, after parsing: `--help` answers at once.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn

import typer
from typer.exceptions import TyperException

from orchestrator.errors import EvaluationFailed, RunFailed
from weightstore.blobs import StoreError

app = typer.Typer(
    help="Reinforcement learning from human feedback on three decoupled clusters.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="YAML file.", show_default=False)]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="A run's folder, or its name below ./runs.")]
Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY.PATH=VALUE]...", help="Settings that replace the recipe's.")
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output instead of text.")]


runs_app = typer.Typer(help="List and remove runs.", no_args_is_help=True)
app.add_typer(runs_app, name="runs")
reward_app = typer.Typer(help="Train reward models on pairs of answers, and score with them.", no_args_is_help=True)
app.add_typer(reward_app, name="reward")


def command(name: str, *, group: typer.Typer = app) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a command whose errors reach the user as one line each, never as a traceback."""

    def register(function: Callable[..., None]) -> Callable[..., None]:
        @wraps(function)
        def run(*arguments: Any, **named: Any) -> None:
            try:
                function(*arguments, **named)
            except (typer.Exit, typer.Abort):
                raise
            except KeyboardInterrupt:
                raise typer.Exit(130) from None
            except BrokenPipeError:  # whoever read our output has gone
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(1) from None
            except ValueError as error:
                _fail(str(error), code=2)
            except (RunFailed, EvaluationFailed, StoreError) as error:
                _fail(str(error), code=1)
            except Exception as error:  # the last door; a run's driver has logged the traceback already
                if os.environ.get("HEADRACE_DEBUG"):
                    raise
                line = f"internal error: {type(error).__name__}: {error} (HEADRACE_DEBUG=1 shows where)"
                _fail(line, code=1)

        return group.command(name)(run)

    return register


def _fail(message: str, *, code: int) -> NoReturn:
    for line in message.splitlines():
        print(f"headrace: {line}", file=sys.stderr)
    raise typer.Exit(code) from None


@command("run")
def run(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="YAML file.", show_default=False)] = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would run, start nothing.")
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Train RUN's batches again from its oldest cut and compare the weights."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Train: generation, scoring and the learner, until the last step."""
    from orchestrator import commands

    if replay is not None and recipe is None and not dry_run:
        commands.replay(replay, as_json=as_json)
    elif recipe is None or replay is not None:
        raise ValueError("run: name either a RECIPE, also with --dry-run, or --replay RUN")
    elif dry_run:
        commands.plan(recipe, overrides or [], as_json=as_json)
    else:
        commands.run(recipe, overrides or [], as_json=as_json)


@command("resume")
def resume(run: RunPath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Go on with a run that was stopped or killed, from its newest checkpoint and its ledger."""
    from orchestrator import commands

    commands.resume(run, overrides or [], as_json=as_json)


@command("pipeline")
def pipeline(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what is left to do, start nothing.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Do all that a recipe describes: fine-tuning, reward model, run, export, evaluation; go on with what is begun."""
    from orchestrator import commands

    commands.pipeline(recipe, overrides or [], dry_run=dry_run, as_json=as_json)


@command("data")
def data(recipe: RecipePath, overrides: Overrides = None, as_json: Json = False) -> None:
    """Check a recipe's prompts, and show how many and how long they are and the first as the model sees it."""
    from orchestrator import commands

    commands.data(recipe, overrides or [], as_json=as_json)


@command("status")
def status(run: RunPath, as_json: Json = False) -> None:
    """What a run is doing, or why it ended."""
    from orchestrator import commands

    commands.status(run, as_json=as_json)


@command("stop")
def stop(
    run: RunPath,
    now: Annotated[bool, typer.Option("--now", help="Kill it at once; `resume` trains the lost step again.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return once it has ended.")] = False,
) -> None:
    """Ask a run to finish its step, checkpoint and end."""
    from orchestrator import commands

    commands.stop(run, now=now, wait=wait)


@command("audit")
def audit(run: RunPath, as_json: Json = False) -> None:
    """Balance every prompt that a run issued against its one end."""
    from orchestrator import commands

    commands.audit(run, as_json=as_json)


@command("sft")
def sft(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Check everything, show what is trained of the first example; start nothing."),
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what an unfinished one left behind.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune `sft.base` on examples and write the result to `model.path`; one that was stopped or killed is gone on with."""
    from orchestrator import commands

    commands.sft(recipe, overrides or [], dry_run=dry_run, restart=restart, as_json=as_json)


@command("eval")
def evaluate(
    policies: Annotated[
        list[str],
        typer.Argument(
            metavar="POLICY... [KEY.PATH=VALUE]...",
            help="Model folders, runs, RUN@STEP or RUN@best, the baseline first; then settings that replace the recipe's.",
        ),
    ],
    recipe: Annotated[
        Path | None, typer.Option(metavar="RECIPE", help="Whose settings count; else those of the first RUN.")
    ] = None,
    prompts: Annotated[str | None, typer.Option(metavar="FILE", help="Held-out prompts: evaluation.path.")] = None,
    judge: Annotated[
        str | None,
        typer.Option(metavar="WHAT", help="A reward model's folder, module:function, or a URL: evaluation.judge."),
    ] = None,
    samples: Annotated[int | None, typer.Option(help="Answers a prompt: evaluation.samples.")] = None,
    seed: Annotated[int | None, typer.Option(help="evaluation.seed")] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY>=VALUE", help="Exit code 1 unless it holds: win_rate>=0.7, kl<=15, distinct_3_ratio>=0.6, …"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Write figures and all answers, as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a page with plots and samples.")] = None,
    as_json: Json = False,
) -> None:
    """Compare policies on held-out prompts: who is better, by how much, at what price."""
    from orchestrator.evaluation import command as evaluation

    given = {"path": prompts, "samples": samples, "seed": seed, "judge": judge and evaluation.judge_of(judge)}
    evaluation.run(
        policies,
        recipe_path=recipe,
        settings={key: value for key, value in given.items() if value is not None},
        gates=gate or [],
        out=out,
        page=html,
        as_json=as_json,
    )


@command("train", group=reward_app)
def train_reward(
    recipe: RecipePath,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, count the pairs, start nothing.")
    ] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard what an unfinished one left behind.")] = False,
    as_json: Json = False,
) -> None:
    """Train a reward model, or an ensemble, and write it with its card to `reward.out`; what was stopped or killed goes on."""
    from orchestrator.stages import reward_commands

    reward_commands.train(recipe, overrides or [], dry_run=dry_run, restart=restart, as_json=as_json)


@command("score", group=reward_app)
def score(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Of a reward model, or of an ensemble.")],
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSONL: prompt and completion; prompt, chosen and rejected; or text.")
    ],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a line a row there, not to the output.")
    ] = None,
    precision: Annotated[
        Literal["float32", "bfloat16", "int8", "int8_weights"], typer.Option(help="int8 is what scorers use.")
    ] = "float32",
    chat_template: Annotated[
        bool | None,
        typer.Option("--chat-template/--no-chat-template", help="Render prompts by it; else as in training."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Only the summary, as one JSON object.")] = False,
) -> None:
    """Score any texts by a reward model; of pairs it says how often it is right."""
    from orchestrator.stages import reward_commands

    reward_commands.score(folder, file, out=out, precision=precision, chat_template=chat_template, as_json=as_json)


@command("export")
def export(
    run: RunPath,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; must not exist.", show_default=False)],
    version: Annotated[
        str, typer.Option(metavar="VERSION", help="newest, best (by the run's own evaluation), or a step.")
    ] = "newest",
    as_json: Json = False,
) -> None:
    """Write a run's weights, the newest unless told otherwise, as an ordinary Hugging Face folder."""
    from orchestrator import commands

    commands.export(run, out, version=version, as_json=as_json)


@command("ls", group=runs_app)
def list_runs(
    roots: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[ROOT]...", help="Folders that hold runs, or runs; ./runs if none is named."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list on standard output instead of a table.")] = False,
) -> None:
    """What runs there are, what they do and what they hold on disk."""
    from orchestrator import commands

    commands.list_runs(roots or [], as_json=as_json)


@command("rm", group=runs_app)
def remove_runs(
    runs: Annotated[
        list[Path] | None, typer.Argument(metavar="[RUN]...", help="Runs' folders, or their names below ./runs.")
    ] = None,
    state: Annotated[str, typer.Option(metavar="STATE", help="Only those in this state: completed, failed, …")] = "",
    older_than: Annotated[str, typer.Option(metavar="AGE", help="Only those not active for 90m, 12h, 7d, 2w.")] = "",
    root: Annotated[Path, typer.Option(metavar="ROOT", help="Where to look if no RUN is named.")] = Path("runs"),
    leave_server: Annotated[
        bool,
        typer.Option(
            "--leave-server", help="Leave what is on a Redis or a Ray cluster of your own, which is gone, say."
        ),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove runs with all that they hold; one that is alive is refused."""
    from orchestrator import commands

    commands.remove_runs(
        runs or [], root=root, state=state, older_than=older_than, yes=yes, leave_server=leave_server, ask=_confirmed
    )


def _confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        raise ValueError("runs rm: nobody to ask on this input; remedy: --yes removes what is listed above")
    return bool(typer.confirm(question))


def main() -> None:
    logging.getLogger().addHandler(logging.NullHandler())  # commands that keep a log say where; others stay silent
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # see orchestrator.entry
        code = app(standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):  # while the command line was read
        code = 130
    except TyperException as error:  # a command line that it cannot read; empty where it has shown the help instead
        context = getattr(error, "ctx", None)
        how = f"{context.command_path if context else 'headrace'} --help"
        if error.format_message():
            print(f"headrace: {error.format_message().rstrip('.')}; `{how}` shows what there is", file=sys.stderr)
        code = error.exit_code
    sys.exit(code)
