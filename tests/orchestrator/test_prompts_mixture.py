"""Several data sets as one source: shares, ids, passes, unfit prompts, what a window ahead may not change."""

import threading

import pytest
import yaml
from data_sets import jsonl, parquet
from orchestrator_folders import CHAT_TEMPLATE, sections, write_model, write_rows, write_tokenizer

from experience.schema import Issue
from orchestrator import preflight
from orchestrator.config import Recipe
from orchestrator.data.ahead import AHEAD_PLACES, CHUNK_PLACES, Lookahead
from orchestrator.data.config import DataConfig
from orchestrator.errors import RunFailed
from orchestrator.modelfolder import load_tokenizer
from orchestrator.prompts import PromptSource
from orchestrator.recipe import RecipeError, load


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    write_tokenizer(folder, letters="<>abcdefghijklmnopqrstuvwxyz .", chat_template=CHAT_TEMPLATE)
    return load_tokenizer(str(folder), field="model.path")


@pytest.fixture
def mixture(tmp_path, tokenizer):
    def mixture(*, limit_tokens=100, seed=3, **data) -> PromptSource:
        one = jsonl(tmp_path / "one.jsonl", [{"prompt": "a" * (n + 1)} for n in range(6)])
        two = parquet(tmp_path / "two.parquet", [{"question": "b" * (n + 1)} for n in range(4)])
        sources = [{"path": str(one), "weight": 0.75}, {"path": str(two), "weight": 0.25, "prompt_column": "question"}]
        config = DataConfig.model_validate({"sources": sources, **data})
        return PromptSource(config, tokenizer=tokenizer, seed=seed, limit_tokens=limit_tokens)

    return mixture


def drawn(source: PromptSource, count: int, cursor: int = 0):
    prompts = []
    for _ in range(count):
        prompt, cursor = source.draw(cursor)
        prompts.append(prompt)
    return prompts, cursor


def test_each_row_comes_once_a_pass_of_its_data_set_at_its_share(mixture):
    prompts, cursor = drawn(mixture(), 48)
    ids = [prompt.prompt_id for prompt in prompts]
    assert cursor == 48
    assert len(set(ids)) == 48
    assert sorted(ids) == sorted(
        [f"one:{number}:{index}" for number in range(6) for index in range(6)]
        + [f"two:{number}:{index}" for number in range(3) for index in range(4)]
    )


def test_the_cursors_of_the_data_sets_follow_from_the_one(mixture):
    source = mixture()
    assert source.cursors(0) == {"one": {"pass": 0, "place": 0}, "two": {"pass": 0, "place": 0}}
    assert source.cursors(40) == {"one": {"pass": 5, "place": 0}, "two": {"pass": 2, "place": 2}}


def test_a_resume_goes_on_where_the_cursor_says(mixture):
    whole, _ = drawn(mixture(), 40)
    _, cursor = drawn(mixture(), 17)
    rest, _ = drawn(mixture(), 23, cursor)
    assert [prompt.prompt_id for prompt in rest] == [prompt.prompt_id for prompt in whole[17:]]


def test_by_id_finds_it_in_its_data_set(mixture):
    source = mixture()
    for prompt in drawn(source, 12)[0]:
        assert source.by_id(prompt.prompt_id).metadata == prompt.metadata
    with pytest.raises(ValueError, match=r"none of data set one \(6 rows\), two \(4 rows\)"):
        source.by_id("two:0:4")


def test_the_digests_are_by_data_set(mixture):
    assert list(mixture().digests) == ["data.sources.0.path", "data.sources.1.path"]


# -- unfit prompts


def test_unfit_prompts_are_refused_before_the_start(mixture):
    with pytest.raises(RecipeError) as caught:
        mixture(limit_tokens=4)  # <bos> and three letters
    assert len(caught.value.lines) == 4
    assert all("tokens, and 4 fit" in line for line in caught.value.lines)
    assert caught.value.lines[-1].startswith("data.sources.1.path = ")
    assert "row 4 has a prompt of 5 tokens" in caught.value.lines[-1]


def test_or_dropped_their_places_passed_over_and_the_order_of_the_others_kept(mixture):
    source = mixture(limit_tokens=4, unfit_prompts="drop")
    assert [one.unfit for one in source.surveys] == [3, 1]
    kept, cursor = drawn(source, 18)
    everything, _ = drawn(mixture(), cursor)
    fitting = [prompt.prompt_id for prompt in everything if len(prompt.tokens) <= 4]
    assert [prompt.prompt_id for prompt in kept] == fitting
    assert cursor > 18


def test_nothing_left_to_ask_is_refused(mixture):
    with pytest.raises(RecipeError, match="none of two is left"):
        mixture(limit_tokens=1, unfit_prompts="drop")


def test_an_unfit_prompt_that_was_not_checked_ends_the_run_or_is_passed_over(mixture, monkeypatch):
    monkeypatch.setattr("orchestrator.data.survey._checked", lambda source: source.good[:2])
    with pytest.raises(RunFailed, match=r": (line|row) \d has a prompt of .* resume with data.unfit_prompts=drop"):
        drawn(mixture(limit_tokens=4), 10)
    assert len(drawn(mixture(limit_tokens=4, unfit_prompts="drop"), 10)[0]) == 10


def test_a_larger_data_set_is_checked_in_part(mixture, monkeypatch):
    monkeypatch.setattr("orchestrator.data.survey.CHECKED_PROMPTS", 3)
    assert [one.checked for one in mixture().surveys] == [3, 3]
    assert mixture().surveys[0].tokens_longest == 7  # the last row is among them


def test_turns_that_a_template_refuses_are_unfit(tmp_path, tokenizer):
    rows = [{"messages": [{"role": "user", "content": "a"}]}, {"messages": [{"role": "assistant", "content": "a"}]}]
    file = write_rows(tmp_path / "d.jsonl", rows)
    config = DataConfig(path=str(file), messages_column="messages", chat_template=True)
    with pytest.raises(RecipeError, match="line 2 has no turn to answer"):
        PromptSource(config, tokenizer=tokenizer, seed=0, limit_tokens=100)
    strict = load_tokenizer(
        str(write_model(tmp_path / "strict", chat_template="{{ raise_exception('no') }}")), field="m"
    )
    with pytest.raises(RecipeError, match=r"line 1 breaks the chat template .*no"):
        PromptSource(config, tokenizer=strict, seed=0, limit_tokens=100)


def test_a_chat_s_own_system_turn_wins(tmp_path, tokenizer):
    own = [{"role": "system", "content": "own"}, {"role": "user", "content": "a"}]
    file = write_rows(tmp_path / "d.jsonl", [{"messages": own}, {"messages": own[1:]}])
    config = DataConfig(
        path=str(file), messages_column="messages", chat_template=True, system_prompt="ours", shuffle=False
    )
    source = PromptSource(config, tokenizer=tokenizer, seed=0, limit_tokens=100)
    shown = [source.tokenizer.shown(prompt.tokens).replace(" ", "") for prompt in drawn(source, 2)[0]]
    assert shown == ["<system>own<pad><user>a<pad><assistant>", "<system>ours<pad><user>a<pad><assistant>"]


# -- passes


def test_passes_end_the_prompts_before_any_data_set_begins_another(mixture):
    source = mixture(passes=1)
    ids = [prompt.prompt_id for prompt in drawn(source, source.places)[0]]
    assert sorted(name for name in ids if name.startswith("one")) == [f"one:0:{index}" for index in range(6)]
    assert all(name.startswith("two:0:") for name in ids if not name.startswith("one"))
    assert mixture().draw(source.places)[0].prompt_id.startswith("one:1:")
    assert source.draw(source.places) is None
    assert mixture().places is None


def test_a_run_that_needs_more_passes_is_refused(tmp_path):
    write_model(tmp_path / "m")
    rows = write_rows(tmp_path / "d.jsonl", [{"prompt": "a"}] * 10)
    recipe = Recipe.model_validate(
        sections(
            model__path=str(tmp_path / "m"),
            data={"path": str(rows), "passes": 2},
            run__root=str(tmp_path),
            pacing={"batch_groups": 4},
            run__steps=6,
        )
    )
    with pytest.raises(RecipeError) as caught:
        preflight.check(recipe)
    (line,) = caught.value.lines
    assert line.startswith("data.passes = 2: 6 steps of 4 groups need 24 prompts, and these passes have 20; ")
    assert line.endswith("run.steps=5 or less")
    fits = recipe.model_copy(update={"run": recipe.run.model_copy(update={"steps": 5})})
    issuer = preflight.check(fits)
    assert issuer.next(20, sequence=20, min_version=0) is None
    assert issuer.anew(Issue(sequence=3, prompt_id="d:0:1", attempt=0), sequence=21, min_version=0).attempt == 1


# -- stop tokens


def test_stop_tokens_are_single_tokens_beside_the_model_s_own(tmp_path):
    write_model(tmp_path / "m")
    rows = write_rows(tmp_path / "d.jsonl", [{"prompt": "a"}])

    def recipe(*stops):
        return Recipe.model_validate(
            sections(
                model__path=str(tmp_path / "m"),
                data__path=str(rows),
                run__root=str(tmp_path),
                generation__stop_tokens=list(stops),
            )
        )

    prompt, _ = preflight.check(recipe(".", 7, "<bos>")).next(0, sequence=0, min_version=0)
    assert prompt.sampling.stop_token_ids == (1, 2, 7, 30)  # <eos>, <bos>, 7, "."
    with pytest.raises(RecipeError) as caught:
        preflight.check(recipe("ab", 31))
    ab, number = caught.value.lines
    assert ab.startswith('generation.stop_tokens.0 = "ab": it is not one token of ')
    assert '("a", "b"); ' in ab
    assert number.startswith("generation.stop_tokens.1 = 31: the vocabulary of ")


# -- the window


def test_what_a_place_holds_does_not_depend_on_what_was_asked_before():
    asked = []
    threads = set()

    def prepare(places):
        threads.add(threading.current_thread().name)
        asked.extend(places)
        return [place * place for place in places]

    ahead = Lookahead(prepare)
    assert [ahead.at(place) for place in (5000, 0, 63, 64, 4999)] == [25_000_000, 0, 3969, 4096, 4999**2]
    assert len(threads) == 1
    assert max(asked) < 5000 + AHEAD_PLACES + 2 * CHUNK_PLACES


def test_an_error_of_the_thread_is_raised_where_its_place_is_asked_for():
    def prepare(places):
        if CHUNK_PLACES in places:
            raise OSError("the disk is gone")
        return list(places)

    ahead = Lookahead(prepare)
    assert ahead.at(0) == 0
    with pytest.raises(OSError, match="the disk is gone"):
        ahead.at(CHUNK_PLACES)


# -- recipes


def test_paths_of_a_mixture_count_from_where_they_are_written(tmp_path, monkeypatch):
    folder = tmp_path / "recipes"
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    content = sections(data={"sources": [{"path": "a.jsonl"}, {"path": "b.jsonl"}]})
    (folder / "r.yaml").write_text(yaml.safe_dump(content))
    recipe = load(folder / "r.yaml", ["data.sources.1.path=c.jsonl"])
    assert [source.path for source in recipe.data.sources] == [str(folder / "a.jsonl"), str(tmp_path / "c.jsonl")]
    whole = load(folder / "r.yaml", ["data={path: d.jsonl}"])
    assert whole.data.path == str(tmp_path / "d.jsonl")


@pytest.mark.parametrize(
    ("data", "start", "remedy"),
    [
        ({"path": None}, "data.path = null: there are no prompts", "data.sources"),
        ({"path": "a", "sources": [{"path": "b"}]}, "data.path = a: with data.sources", "leave data.path out"),
        (
            {"prompt_column": "q", "sources": [{"path": "b"}]},
            "data.prompt_column = q: ",
            "data.sources.0.prompt_column",
        ),
        ({"sources": [{"path": "x/a.jsonl"}, {"path": "y/a.jsonl"}]}, "data.sources = ", "data.sources.1.name"),
        ({"path": "a", "messages_column": "m"}, "data.messages_column = m: only a chat", "data.chat_template=true"),
        ({"sources": [{"path": "a", "weight": 0.12345}, {"path": "b"}]}, "data.sources = ", "round them"),
    ],
)
def test_rules_of_the_data(data, start, remedy):
    with pytest.raises(ValueError, match="data") as caught:
        Recipe.model_validate(sections(data=data))
    lines = [line.removeprefix("  Value error, ") for line in str(caught.value).splitlines() if start in line]
    assert len(lines) == 1
    assert remedy in lines[0].partition("; ")[2]


def test_prompt_is_no_name_for_metadata():
    with pytest.raises(ValueError, match="under the name prompt"):
        DataConfig(path="a", metadata={"prompt": "text"})
