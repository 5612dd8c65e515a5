"""Reading recipes: overrides, paths, YAML's traps, and every kind of mistake on one line."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from orchestrator_folders import sections

from orchestrator import yamlfile
from orchestrator.recipe import RecipeError, dump, load


@pytest.fixture
def write(tmp_path):
    def write(content=None, **changes) -> Path:
        file = tmp_path / "trial.yaml"
        file.write_text(content if content is not None else yamlfile.render(sections(**changes)))
        return file

    return write


def problems(file, *overrides):
    with pytest.raises(RecipeError) as caught:
        load(file, overrides)
    assert str(caught.value) == "\n".join(caught.value.lines)
    assert not any("\n" in line for line in caught.value.lines)
    return list(caught.value.lines)


MISTAKES = [
    # override, field = value, reason, remedy
    ("training.optimizer.lr=1e-5", "training.optimizer.lr = 1e-05", "no such key", "training.optimizer.learning_rate"),
    ("training.batch_groups=3", "training.batch_groups = 3", "no such key", "nearest is pacing.batch_groups"),
    ("max_staleness=0", "max_staleness = 0", "no such key", "nearest is pacing.max_staleness"),
    ("trainin.ranks=2", 'trainin = {"ranks": 2}', "no such key", "nearest is training"),
    ("scoring.rewards.0.wieght=2", "scoring.rewards.0.wieght = 2", "no such key", "scoring.rewards.0.weight"),
    ("scoring.rewards.0.pth=m", "scoring.rewards.0.pth = m", "no such key", "the nearest is scoring.reference.path"),
    ("scoring.rewards.0.kind=modl", "scoring.rewards.0.kind = modl", "choices", "'function', 'model', 'http'"),
    ("scoring.rewards.0.kind=3", "scoring.rewards.0.kind = 3", "choices", "'length' or 'overlong'"),
    ("scoring.rewards.0.kind=", "scoring.rewards.0.kind = null", "choices", "'function', 'model'"),
    ("scoring.rewards=[text]", "scoring.rewards.0 = text", "section", "keys of its own"),
    ("scoring.combine.kind=max", "scoring.combine.kind = max", "choices", "'sum', 'normalised' or 'lexicographic'"),
    ("scoring.combine={kind: sum, ordr: [a]}", 'scoring.combine.ordr = ["a"]', "no such key", "is scoring.workers"),
    ("sft.bse=m", "sft.bse = m", "no such key", "sft.base"),
    ("training.optimizer.learning_rate=-1e-5", "training.optimizer.learning_rate = -1e-05", "out of range", "above 0"),
    ("training.optimizer.beta1=1", "training.optimizer.beta1 = 1", "out of range", "below 1"),
    (f"run.seed={2**64}", f"run.seed = {2**64}", "out of range", f"at most {2**64 - 1}"),
    ("run.steps=0", "run.steps = 0", "out of range", "at least 1"),
    ("generation.engine.memory_share=1.5", "generation.engine.memory_share = 1.5", "out of range", "at most 1"),
    ("generation.max_tokens=3.5", "generation.max_tokens = 3.5", "whole number", "a whole number"),
    ("generation.max_tokens=many", "generation.max_tokens = many", "whole number", "a whole number"),
    ("run.seed=true", "run.seed = true", "whole number", "a whole number"),
    ("generation.temperature=hot", "generation.temperature = hot", "must be a number", "set generation.temperature to"),
    ("generation.temperature=.inf", "generation.temperature = Infinity", "not a finite number", "give one"),
    ("generation.temperature=.nan", "generation.temperature = NaN", "not a finite number", "give one"),
    ("data.shuffle=1", "data.shuffle = 1", "true or false", "true or false"),
    ("data.prompt_column=7", "data.prompt_column = 7", "must be text", "in quotes"),
    ("data.path=null", "data.path = null", "there are no prompts", "set data.path"),
    ("experience.fsync=never", "experience.fsync = never", "choices", "'always' or 'everysec'"),
    ("training.kl.where=no", "training.kl.where = false", "choices", "'loss', 'reward' or 'none'"),
    ("training.checkpoint=5", "training.checkpoint = 5", "section", "keys of its own"),
    ("training=null", "training = null", "section", "keys of its own"),
    ("scoring.rewards=[]", "scoring.rewards = []", "at least 1", "add an entry"),
    ("scoring.rewards=length", "scoring.rewards = length", "a list", "a list"),
    ("run.name=My Run", "run.name = My Run", "names folders", "lower-case"),
    (f"run.name={'x' * 64}", f"run.name = {'x' * 64}", "names folders", "at most 63"),
    ("run.name=../x", "run.name = ../x", "names folders", "lower-case"),
    ('run.name="a\\nb"', 'run.name = "a\\nb"', "names folders", "lower-case"),
    ("run.seed=!!binary aGk=", "run.seed = b'hi'", "whole number", "a whole number"),
    (f"run.name={'x' * 9999}", f"run.name = {'x' * 300}…", "names folders", "at most 63"),
    ("run.name=", "run.name = null", "must be text", "set run.name"),
]


@pytest.mark.parametrize(("override", "start", "reason", "remedy"), MISTAKES)
def test_a_wrong_value_is_one_line_with_field_value_and_remedy(write, override, start, reason, remedy):
    lines = [line for line in problems(write(), override) if "(missing)" not in line]
    assert len(lines) == 1
    assert lines[0].startswith(start + ": ")
    explained, _, advice = lines[0].removeprefix(start + ": ").partition("; ")
    assert reason in explained
    assert remedy in advice


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("steps", "steps: not an override; write key.path=value"),
        ("=3", "=3: not an override; write key.path=value"),
        ("run..steps=3", "run..steps=3: not an override; write key.path=value"),
        ("run.steps=[1", "run.steps = [1: not valid YAML"),
        ("scoring.rewards.1.weight=2", "scoring.rewards.1.weight=2: scoring.rewards has entries 0 to 0 and no 1"),
        ("scoring.rewards.²=2", "scoring.rewards.²=2: scoring.rewards has entries 0 to 0 and no ²"),
        ("model.path=~no-such-user/m", "model.path=~no-such-user/m: cannot be a path"),
        ('run.root="a\\0b"', 'run.root="a\\0b": cannot be a path (embedded null byte); name another'),
        (f"data.path={'x' * 300}", f"data.path={'x' * 300}: cannot be a path (File name too long); name another"),
        ("scoring.rewards.x=2", "scoring.rewards.x=2: scoring.rewards has entries 0 to 0 and no x"),
    ],
)
def test_a_malformed_override_is_refused(write, override, says):
    (line,) = problems(write(), override)
    assert line.startswith(says)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("run:\n  name: x\n steps: 3\n", "trial.yaml:3: not valid YAML"),
        ("run: {name: x\nmodel: [", ": not valid YAML"),
        ("run:\n  name: x\n  name: y\n", "trial.yaml:3: not valid YAML: the key name stands here twice"),
        ("run: {name: x}\n2: 3\n", "trial.yaml:2: not valid YAML: the key 2 is not text"),
        ("run: !!python/object/apply:os.system [ls]\n", "trial.yaml:1: not valid YAML"),
        ("run: {steps: !!int abc}\n", "trial.yaml: not valid YAML: a value does not fit its type"),
        ("run: {steps: !!bool abc}\n", "trial.yaml: not valid YAML: a value does not fit its type"),
        (f"run: {{steps: {'9' * 5000}}}\n", "trial.yaml: not valid YAML: a value does not fit its type"),
        (f"run: {'[' * 9999}\n", "trial.yaml: not valid YAML: it is nested too deeply"),
        ("", "trial.yaml: holds no sections"),
        ("- run\n", "trial.yaml: holds no sections"),
    ],
)
def test_a_file_that_is_no_recipe_names_file_and_line(write, content, says):
    (line,) = problems(write(content))
    assert says in line


def test_a_path_that_can_be_none_is_a_line_like_the_others(write):
    file = write(model__path="a\0b", data__path="~no-such-user/d.jsonl", run__root="x" * 300)
    starts = ['model.path = "a\\u0000b": cannot be', "data.path = ~no-such-user/d.jsonl: cannot be", "run.root = xxx"]
    lines = problems(file)
    assert len(lines) == 3
    assert all(any(line.startswith(start) for line in lines) for start in starts)


def test_keys_are_shown_as_they_were_written_but_move_no_cursor(write):
    assert any(line.startswith('"run\\n\\u001b[31m" = 1: ') for line in problems(write('"run\\n\\e[31m": 1\n')))


def test_a_file_that_cannot_be_read(tmp_path):
    assert "cannot be read (No such file or directory)" in problems(tmp_path / "none.yaml")[0]
    assert "cannot be read (Is a directory)" in problems(tmp_path)[0]
    (tmp_path / "latin.yaml").write_bytes(b"run: \xe9")
    assert "not UTF-8" in problems(tmp_path / "latin.yaml")[0]


def test_mistakes_in_a_kind_are_told_by_the_keys_of_that_kind(write):
    reward = {"name": "r", "kind": "model", "combin": "min", "function": "a:b", "precision": "int4"}
    lines = problems(write(scoring__rewards=[reward, {"name": "s", "kind": "http", "timeout": 3}]))
    assert [line.partition(": ")[0] for line in lines] == [
        "scoring.rewards.0.precision = int4",
        "scoring.rewards.0.combin = min",
        "scoring.rewards.0.function = a:b",
        "scoring.rewards.1.url = (missing)",
        "scoring.rewards.1.timeout = 3",
    ]
    assert lines[1].endswith("the nearest is scoring.rewards.0.combine")
    assert "scoring.rewards.0.function" not in lines[2].partition("nearest is ")[2]
    assert lines[4].endswith("the nearest is scoring.rewards.1.timeout_s")


def test_a_section_of_several_kinds_says_which(write):
    (line,) = problems(write(scoring__combine={"order": ["a"]}))
    assert line.startswith(
        "scoring.combine.kind = (missing): it says which keys stand beside it; set scoring.combine.kind"
    )
    assert line.endswith("to 'sum', 'normalised' or 'lexicographic'")


def test_kinds_are_read_back_with_their_paths(write, tmp_path):
    rewards = [
        {"name": "helpful", "kind": "model", "paths": ["a", "/b"], "combine": "mean"},
        {"name": "judge", "kind": "http", "url": "http://h/x", "token_file": "t", "weight": 2},
        {"name": "old", "function": "a:b"},
    ]
    recipe = load(write(scoring__rewards=rewards, scoring__combine={"kind": "normalised"}))
    assert [reward.kind for reward in recipe.scoring.rewards] == ["model", "http", "function"]
    assert recipe.scoring.rewards[0].folders == (str(tmp_path / "a"), "/b")
    assert recipe.scoring.rewards[1].token_file == str(tmp_path / "t")
    assert recipe.scoring.combine.kind == "normalised"


def test_all_problems_come_at_once_sections_and_rules_alike(write):
    file = write(run={"name": "x"}, model={"pth": "m"}, pacing={"max_staleness": 0, "publish_interval_batches": 2})
    lines = problems(file, "generation.top_p=0.9", "training.mini_batches=0", "nonsense")
    assert [line.split(" = ")[0].split(":")[0] for line in lines] == [
        "nonsense",
        "run.steps",
        "model.path",
        "model.pth",
        "training.mini_batches",
        "generation.top_p",  # the rules whose sections are valid
        "pacing.publish_interval_batches",
    ]


def test_overrides_are_yaml_and_reach_lists_and_null_sections(write):
    file = write(scoring__reference=None, training__kl={"where": "none"})
    recipe = load(
        file,
        [
            "scoring.rewards.0.weight=2",
            "scoring.rewards.0.arguments={start: 3}",
            "scoring.reference.precision=float32",
            "training.optimizer.learning_rate=3e-4",
            "run.name=a-b",
            "generation.engine.max_model_tokens=null",
        ],
    )
    assert recipe.scoring.rewards[0].weight == 2.0
    assert recipe.scoring.rewards[0].arguments == {"start": 3}
    assert recipe.scoring.reference is not None
    assert recipe.scoring.reference.precision == "float32"
    assert recipe.training.optimizer.learning_rate == 3e-4
    assert recipe.run.name == "a-b"


def test_a_path_is_relative_to_where_it_is_written(write, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    file = write(model__path="m", data__path="../d.jsonl", sft={"base": "b", "path": "/abs/s.jsonl"})
    recipe = load(file, ["model.path=mine", "store.url=s3://bucket/x", "scoring.reference.path=~/ref"])
    assert recipe.model.path == str(here / "mine")
    assert recipe.data.path == str(tmp_path.parent / "d.jsonl")
    assert recipe.sft is not None
    assert (recipe.sft.base, recipe.sft.path) == (str(tmp_path / "b"), "/abs/s.jsonl")
    assert recipe.store.url == "s3://bucket/x"
    assert recipe.scoring.reference is not None
    assert recipe.scoring.reference.path == str(Path.home() / "ref")
    assert recipe.run.root == str(here / "runs")  # the default
    assert load(write(run__root="r")).run.root == str(tmp_path / "r")


def test_dump_is_read_back_whole(write, tmp_path):
    recipe = load(
        write(scoring__rewards=[{"name": "1e-5", "function": "a:b", "arguments": {"on": ["no", "2020-01-01"]}}])
    )
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump(recipe))
    assert load(copy) == recipe
    assert dump(load(copy)) == dump(recipe)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
    | st.from_regex(r"[-+]?[0-9.]+[eE][-+]?[0-9]+", fullmatch=True)
)
def test_yaml_round_trip(value):
    assert yamlfile.parse(yamlfile.render(value)) == value


@pytest.mark.parametrize("text", ["a\x85b", "\x85", "\u2028", "a\u2029 b"])
def test_yaml_keeps_line_breaks_of_unicode(text):
    assert yamlfile.parse(yamlfile.render({"key": text})) == {"key": text}


def test_yaml_numbers_and_dates():
    assert yamlfile.parse("[1e-5, 1E3, -2e+4, 1.5, 1_000, 2020-01-01, '1e-5']") == [
        1e-5,
        1e3,
        -2e4,
        1.5,
        1000,
        "2020-01-01",
        "1e-5",
    ]


def test_a_key_of_its_own_wins_over_a_merged_one():
    text = "base: &base {a: 1, b: 2}\nmine:\n  <<: *base\n  b: 3\n"
    assert yamlfile.parse(text)["mine"] == {"a": 1, "b": 3}
