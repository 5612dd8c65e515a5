"""Fine-tune, train reward models, score, compare policies."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from orchestrator.subcommands.door import Json, Overrides, RecipePath, command, reward_app


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
