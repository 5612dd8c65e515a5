"""A resume on another data file, model or tokenizer is refused; what a run does not read may change."""

import json
from pathlib import Path

import pytest
from orchestrator_folders import sections, write_model

from orchestrator.config import Recipe
from orchestrator.folder import RunFolder
from orchestrator.inputs import same_inputs
from orchestrator.recipe import RecipeError


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    write_model(tmp_path / "policy")
    write_model(tmp_path / "frozen")
    folder = RunFolder(tmp_path / "runs" / "trial")
    folder.create()
    return folder


def a_recipe(folder: RunFolder, *, reference: bool = True) -> Recipe:
    root = folder.path.parent.parent
    changes = {"scoring__reference": {"path": str(root / "frozen")}} if reference else {}
    return Recipe.model_validate(sections(model__path=str(root / "policy"), **changes))


def look(folder: RunFolder, *, prompts: str = "p", reference: bool = True) -> None:
    same_inputs(folder, a_recipe(folder, reference=reference), prompts={"data.path": prompts})


def edit(file: Path) -> None:
    file.write_text(file.read_text().replace("1", "2", 1))


def reshape(file: Path) -> None:
    """Other weights of another shape, with the configuration as it was."""
    before = (file.parent / "config.json").read_text()
    write_model(file.parent, vocabulary=40)
    (file.parent / "config.json").write_text(before)


def lengthen(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b"0")


CHANGES = [
    ("config.json", edit),
    ("generation_config.json", edit),
    ("tokenizer.json", edit),
    ("tokenizer_config.json", Path.unlink),
    ("chat_template.jinja", Path.touch),
    ("model.safetensors", reshape),
    ("model.safetensors", lengthen),
    ("model.safetensors", Path.unlink),
]


@pytest.mark.parametrize(("name", "change"), CHANGES, ids=[f"{change.__name__} {name}" for name, change in CHANGES])
def test_another_model_is_refused_with_one_line(folder, name, change):
    look(folder)
    model = folder.path.parent.parent / "policy"
    change(model / name)
    with pytest.raises(RecipeError) as caught:
        look(folder)
    assert list(caught.value.lines) == [
        f"model.path = {model}: its content has changed since the run began; "
        "restore it, or start another run under a new run.name"
    ]


def test_every_changed_input_has_its_line(folder):
    look(folder)
    for model in ("policy", "frozen"):
        edit(folder.path.parent.parent / model / "config.json")
    with pytest.raises(RecipeError) as caught:
        look(folder, prompts="q")
    keys = [line.split(" = ")[0] for line in caught.value.lines]
    assert keys == ["data.path", "model.path", "scoring.reference.path"]


def test_what_a_run_does_not_read_may_change(folder):
    look(folder)
    model = folder.path.parent.parent / "policy"
    (model / "README.md").write_text("mine")
    (model / ".cache").mkdir()
    (model / "config.json").touch()
    look(folder)


def test_weights_that_are_drawn_afresh_are_not_looked_at(folder):
    weights = folder.path.parent.parent / "policy" / "model.safetensors"
    recipe = a_recipe(folder, reference=False)
    fresh = recipe.model_copy(update={"model": recipe.model.model_copy(update={"random_init": True})})
    same_inputs(folder, fresh, prompts={"data.path": "p"})
    weights.write_text("a pointer to a large file")
    same_inputs(folder, fresh, prompts={"data.path": "p"})


def test_an_input_that_was_not_noted_is_noted_now(folder):
    folder.write_json(folder.inputs, {"data.path": "p"})
    look(folder, reference=False)
    assert json.loads(folder.inputs.read_text()).keys() == {"data.path", "model.path"}
    edit(folder.path.parent.parent / "policy" / "config.json")
    with pytest.raises(RecipeError, match=r"model\.path"):
        look(folder, reference=False)


@pytest.mark.parametrize("text", ['{"data.path": ', "[]"])
def test_notes_that_are_damaged_are_named(folder, text):
    folder.inputs.write_text(text)
    with pytest.raises(RecipeError) as caught:
        look(folder)
    (line,) = caught.value.lines
    assert line.startswith(f"{folder.inputs}: is no JSON object; restore it from a copy")
