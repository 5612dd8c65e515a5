"""Which stages a pipeline does, passes over or goes on with, and what it says when one ends before its time; 6 s.

The stages here are stand-ins but for the run's and the export's states; tests/loop/test_loop_pipeline.py has real ones.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from orchestrator_folders import LETTERS, a_run, sections, write_model, write_rows

from orchestrator import cli, yamlfile
from orchestrator import recipe as recipes
from orchestrator.errors import RunFailed
from orchestrator.evaluation import policies
from orchestrator.evaluation.config import EvaluationConfig, JudgeConfig
from orchestrator.folder import RunFolder
from orchestrator.recipe import RecipeError
from orchestrator.stages import judgement, pipeline
from orchestrator.stages.known import stages_of
from orchestrator.stages.pipeline import Pipeline, table
from orchestrator.stages.stage import Stage, Stopped
from orchestrator.stores import open_store
from weightstore.manifest import WeightVersion
from weightstore.pins import BEST, pin
from weightstore.publish import record_newest


class Trial:
    """A pipeline of stand-in stages, whose results are files."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.calls: list[str] = []
        self.said: list[str] = []
        self.answers: dict[str, Any] = {}
        self.fails: dict[str, BaseException] = {}
        self.wrong: dict[str, Exception] = {}
        monkeypatch.setattr(
            pipeline, "stages_of", lambda recipe: [self.stage(name) for name in ("one", "two", "three")]
        )
        (folder / "trial.yaml").write_text(yamlfile.render(sections(run__root=str(folder / "runs"))))
        self.recipe = recipes.load(folder / "trial.yaml")

    def stage(self, name: str) -> Stage:
        makes = self.folder / name
        begun = self.folder / f"{name}.begun"

        def check() -> None:
            if name in self.wrong:
                raise self.wrong[name]

        def carry_out(session: Any, quiet: bool) -> None:
            self.calls.append(name)
            begun.touch()
            if name in self.fails:
                raise self.fails.pop(name)
            makes.touch()

        return Stage(
            name=name,
            makes=makes,
            state=lambda: "done" if makes.exists() else "begun" if begun.exists() else "new",
            check=check,
            carry_out=carry_out,
            recall=lambda: {"size": len(name), **self.answers},
            summary=lambda made: f"size {made['size']}",
        )

    def run(self) -> list[pipeline.Done]:
        return Pipeline(self.recipe).run(quiet=True, say=self.said.append)


@pytest.fixture
def trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Trial:
    return Trial(tmp_path, monkeypatch)


def test_what_is_there_is_said_and_passed_over(trial: Trial) -> None:
    assert [one.here for one in trial.run()] == [True] * 3
    assert trial.calls == ["one", "two", "three"]
    (trial.folder / "two").unlink()
    trial.said.clear()
    again = trial.run()
    assert trial.calls[3:] == ["two"]
    assert [one.here for one in again] == [False, True, False]
    assert trial.said == [
        f"[one] {trial.folder / 'one'} is there already",
        f"[two] goes on: {trial.folder / 'two'}",
        f"[three] {trial.folder / 'three'} is there already",
    ]
    assert [one.summary for one in again] == ["size 3", "size 3", "size 5"], "also of what was done before"


@pytest.mark.parametrize("error", [RunFailed("rank-0 died"), KeyboardInterrupt(), Stopped(), ValueError("line 3: bad")])
def test_a_stage_that_ends_before_its_time_is_gone_on_with(trial: Trial, error: BaseException) -> None:
    trial.fails["two"] = error
    with pytest.raises(type(error)):
        trial.run()
    assert trial.said[-1] == "[two] ended before its time; the same command goes on from there"
    first = trial.run()
    assert trial.calls == ["one", "two", "two", "three"]
    assert all(one.seconds >= 0 for one in first)


def test_seconds_are_those_of_all_lives(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 10.0, 10.0, 17.0, 100.0, 120.0, 120.0, 125.0])
    monkeypatch.setattr(pipeline.time, "monotonic", lambda: next(clock))
    trial.fails["two"] = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        trial.run()
    done = trial.run()
    assert [one.seconds for one in done] == [10.0, 7.0 + 20.0, 5.0]
    assert table(done)[1:] == [
        ["one", "10.0", str(trial.folder / "one"), "size 3"],
        ["two", "27.0", str(trial.folder / "two"), "size 3"],
        ["three", "5.0", str(trial.folder / "three"), "size 5"],
        ["all", "42.0", "", ""],
    ]


def test_all_that_is_wrong_is_said_before_anything_starts(trial: Trial) -> None:
    trial.wrong = {
        "one": RecipeError(["a = 1: b; c", "same"]),
        "three": ValueError("d = 2: e; f"),
        "two": ValueError("same"),
    }
    with pytest.raises(RecipeError) as refused:
        trial.run()
    assert refused.value.lines == ("a = 1: b; c", "same", "d = 2: e; f")
    assert trial.calls == []


def test_a_second_pipeline_of_the_run_is_refused(trial: Trial) -> None:
    with RunFolder(trial.folder / "runs" / ".trial.pipeline").locked(), pytest.raises(ValueError, match="still alive"):
        trial.run()


@pytest.mark.parametrize(("error", "code"), [(RunFailed("x"), 1), (KeyboardInterrupt(), 130), (Stopped(), 130), (ValueError("x"), 2)])  # fmt: skip
def test_the_exit_code_says_how_it_ended(
    trial: Trial, error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.fails["one"] = error
    monkeypatch.setattr("sys.argv", ["headrace", "pipeline", str(trial.folder / "trial.yaml")])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == code
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code


def test_a_gate_that_fails_is_the_exit_code_also_of_what_was_there(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    trial.answers = {"gates": [{"passed": True}, {"passed": False}]}
    monkeypatch.setattr("sys.argv", ["headrace", "pipeline", str(trial.folder / "trial.yaml"), "--json"])
    for _ in range(2):
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == 1


# -- the states of the real stages ---------------------------------------------------------------------------------------
@pytest.fixture
def recipe(tmp_path: Path) -> recipes.Recipe:
    write_model(tmp_path / "recipes" / "base", weights=False)
    write_rows(tmp_path / "recipes" / "d.jsonl", [{"prompt": "abc"}] * 4)
    write_rows(tmp_path / "recipes" / "sft.jsonl", [{"prompt": "abc", "completion": "d"}] * 4)
    sft = {"base": "base", "random_init": True, "path": "sft.jsonl"}
    pairs = [{"prompt": f"{letter}bc", "chosen": "d", "rejected": "e"} for letter in LETTERS]
    write_rows(tmp_path / "recipes" / "pairs.jsonl", pairs)
    written = sections(
        run__root="../runs",
        model__path="made",
        data__passes=None,
        sft=sft,
        reward={"path": "pairs.jsonl", "out": "judge", "held_out_share": 0.3},
        scoring__rewards=[{"name": "liked", "kind": "model", "path": "judge"}],
    )
    (tmp_path / "recipes" / "trial.yaml").write_text(yamlfile.render(written))
    return recipes.load(tmp_path / "recipes" / "trial.yaml")


def state(recipe: recipes.Recipe, name: str) -> str:
    return next(stage for stage in stages_of(recipe) if stage.name == name).state()


def test_the_run_is_checked_before_its_models_are_made(recipe: recipes.Recipe) -> None:
    whole = Pipeline(recipe)
    assert whole.examine() == {"sft": "new", "reward": "new", "run": "new", "export": "new"}
    assert whole.plan()["lines"][0].startswith("sft: to do, ")
    wrong = recipe.model_copy(update={"generation": recipe.generation.model_copy(update={"max_tokens": 64})})
    with pytest.raises(RecipeError, match="leaves no room for a prompt"):
        Pipeline(wrong).examine()


def test_a_critic_of_the_reward_model_is_no_hindrance_before_that_is_made(recipe: recipes.Recipe) -> None:
    assert recipe.reward is not None
    critic = recipe.training.algorithm.critic.model_copy(update={"path": recipe.reward.out})
    algorithm = recipe.training.algorithm.model_copy(update={"critic": critic})
    training = recipe.training.model_copy(update={"algorithm": algorithm})
    Pipeline(recipe.model_copy(update={"training": training})).examine()


def test_a_reward_model_of_somebody_else_must_be_there(recipe: recipes.Recipe, tmp_path: Path) -> None:
    other = recipe.scoring.rewards[0].model_copy(update={"path": str(tmp_path / "other")})
    wrong = recipe.model_copy(update={"scoring": recipe.scoring.model_copy(update={"rewards": (other,)})})
    with pytest.raises(RecipeError, match=r"scoring.rewards.0.path = .*/other: there is no such folder"):
        Pipeline(wrong).examine()


def test_a_result_of_another_recipe_is_refused(recipe: recipes.Recipe) -> None:
    made = Path(recipe.model.path)
    write_model(made)
    assert state(recipe, "sft") == "done", "nobody says how it was made"
    card = {"made_from": {"sft.epochs": 7}}
    (made / "training_card.json").write_text(json.dumps(card))
    with pytest.raises(RecipeError, match=r"sft.epochs = 1: .* was fine-tuned with 7"):
        state(recipe, "sft")
    assert recipe.reward is not None
    write_model(Path(recipe.reward.out))
    with pytest.raises(RecipeError, match=r"reward.out = .*: is there already, and was made from other"):
        state(recipe, "reward")


def test_a_run_is_done_once_it_has_all_its_steps(recipe: recipes.Recipe, tmp_path: Path) -> None:
    run = a_run(tmp_path, "trial", state="failed", steps=4)
    run.write(run.recipe, recipes.dump(recipe))
    assert state(recipe, "run") == "begun"
    run.write_json(run.status, {"run": "trial", "state": "completed", "steps": 4})
    assert state(recipe, "run") == "done"
    longer = recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": 5})})
    assert state(longer, "run") == "begun", "it is prolonged"
    other = recipe.model_copy(update={"run": recipe.run.model_copy(update={"seed": 1})})
    with pytest.raises(RecipeError, match=r"run.seed = 1: this run was started with 0"):
        state(other, "run")


def test_an_evaluation_that_nobody_has_made_asks_for_no_weights(recipe: recipes.Recipe) -> None:
    settings = EvaluationConfig(
        path=recipe.data.path, judge=JudgeConfig(function="score_cluster.functions:exact_match")
    )
    judged = recipe.model_copy(update={"evaluation": settings})
    assert Pipeline(judged).examine()["eval"] == "new"
    assert recipe.reward is not None
    own = settings.model_copy(update={"judge": JudgeConfig(model=recipe.reward.out)})
    assert Pipeline(recipe.model_copy(update={"evaluation": own})).examine()["eval"] == "new", "it is still to be made"
    none = settings.model_copy(update={"judge": JudgeConfig(model="nowhere")})
    with pytest.raises(RecipeError, match=r"evaluation.judge.model = nowhere: there is no such folder"):
        Pipeline(recipe.model_copy(update={"evaluation": none})).examine()


def test_the_best_is_evaluated_beside_the_newest_where_it_is_another(
    recipe: recipes.Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        policies, "find_policy", lambda text: policies.Policy(name=text, model_path="", run=None, version=None)
    )
    folder = RunFolder(Path(recipe.run.root) / recipe.run.name)
    folder.create()
    store = open_store(recipe, folder)
    three, four = (WeightVersion(lineage=0, epoch=1, number=number) for number in (3, 4))

    def names() -> list[str]:
        return [one.name for one in judgement._policies(recipe, folder)]

    record_newest(store, four, run_epoch=1)
    assert names() == ["start", folder.run_id]
    pin(store, BEST, four, run_epoch=1)
    assert names() == ["start", folder.run_id]
    pin(store, BEST, three, run_epoch=1)
    assert names() == ["start", folder.run_id, f"{folder.run_id}@best"]


def test_an_evaluation_is_made_again_when_weights_or_settings_are_others(recipe: recipes.Recipe) -> None:
    settings = EvaluationConfig(
        path=recipe.data.path, judge=JudgeConfig(function="score_cluster.functions:exact_match")
    )
    judged = recipe.model_copy(update={"evaluation": settings})
    folder = RunFolder(Path(recipe.run.root) / recipe.run.name)
    folder.create()

    def publish(number: int) -> None:
        version = WeightVersion(lineage=0, epoch=1, number=number)
        record_newest(open_store(recipe, folder), version, run_epoch=number)

    publish(3)
    folder.write_json(folder.evaluation, {"made_from": judgement._identity(judged, folder)})
    assert state(judged, "eval") == "done"
    more = judged.scoring.model_copy(update={"workers": 2})
    assert state(judged.model_copy(update={"scoring": more}), "eval") == "done", "no figure follows from it"
    warmer = judged.generation.model_copy(update={"temperature": 0.7})
    assert state(judged.model_copy(update={"generation": warmer}), "eval") == "new"
    longer = settings.model_copy(update={"limit": 7})
    assert state(judged.model_copy(update={"evaluation": longer}), "eval") == "new"
    publish(4)
    assert state(judged, "eval") == "new"
