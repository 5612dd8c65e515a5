"""What identifies a run, and what may change when it is resumed."""

import pytest
from orchestrator_folders import sections

from orchestrator.config import RESUMABLE_KEYS, Recipe, changed_keys, fingerprint, flatten, resume_violations
from orchestrator.nearest import keys_of

MAY_CHANGE = {
    "run__steps": 9,
    "run__root": "elsewhere",
    "supervise__heartbeat_s": 5.0,
    "metrics__port": 9400,
    "generation__workers": 3,
    "generation__poll_interval_s": 1.0,
    "scoring__workers": 2,
    "training__checkpoint": {"interval_steps": 7, "keep": 9},
    "training__ranks": 2,
    "experience__lease_s": 3.0,
    "experience__url": "redis://another:6379/1",
}
MAY_NOT = {
    "run__seed": 1,
    "model__path": "other",
    "data__shuffle": False,
    "generation__temperature": 0.7,
    "generation__max_tokens": 9,
    "generation__engine": {"dtype": "float32"},
    "scoring__reference": {"precision": "float32"},
    "training__optimizer": {"learning_rate": 1e-4},
    "training__algorithm": {"gae_lambda": 0.9},
    "training__kl": {"where": "loss"},
    "training__micro_batch_tokens": 4096,
    "pacing__max_staleness": 3,
    "store__shard_bytes": 100,
}


def recipe(**changes):
    return Recipe.model_validate(sections(**changes))


@pytest.mark.parametrize("key", MAY_CHANGE)
def test_resumable_keys_leave_the_fingerprint_alone(key):
    new = recipe(**{key: MAY_CHANGE[key]})
    assert changed_keys(recipe(), new)
    assert fingerprint(new) == fingerprint(recipe())
    assert resume_violations(recipe(), new) == []


@pytest.mark.parametrize("key", MAY_NOT)
def test_any_other_key_makes_another_run(key):
    new = recipe(**{key: MAY_NOT[key]})
    assert fingerprint(new) != fingerprint(recipe())
    ((name, (old_value, value)),) = changed_keys(recipe(), new).items()
    (line,) = resume_violations(recipe(), new)
    assert line.startswith(f"{name} = {value}: this run was started with {old_value}")
    assert f"; set {name}={old_value}" in line


def test_steps_only_grow():
    (line,) = resume_violations(recipe(), recipe(run__steps=3))
    assert line.startswith("run.steps = 3: this run was started with 4")
    assert "; set run.steps=4 or more" in line


def test_every_change_is_refused_on_a_line_of_its_own():
    lines = resume_violations(recipe(), recipe(run__seed=1, run__steps=1, generation__group_size=4))
    assert [line.split(" = ")[0] for line in lines] == ["generation.group_size", "run.seed", "run.steps"]


def test_lists_and_absent_sections_are_compared_leaf_by_leaf():
    rewards = [*sections()["scoring"]["rewards"], {"name": "more", "function": "a:b", "arguments": {"words": []}}]
    new = recipe(scoring__rewards=rewards, scoring__reference=None, training__kl={"where": "none"})
    changes = changed_keys(recipe(), new)
    assert changes["scoring.rewards.1.arguments.words"] == ("(absent)", [])
    assert changes["scoring.reference"] == ("(absent)", None)
    assert changes["scoring.reference.precision"] == ("int8_weights", "(absent)")


def test_the_fingerprint_is_of_values_not_of_spelling():
    assert fingerprint(recipe(generation__temperature=1)) == fingerprint(recipe(generation__temperature=1.0))
    assert fingerprint(recipe(generation={"group_size": 8, "max_tokens": 8})) == fingerprint(recipe())


def test_resumable_keys_exist_and_have_reasons():
    real = {key for key, _ in keys_of(Recipe)}
    assert set(RESUMABLE_KEYS) <= real
    assert all(RESUMABLE_KEYS.values())
    assert {key.split(".")[0] for key in flatten(recipe())} == set(Recipe.model_fields)


def test_how_a_remote_judge_is_reached_may_change_and_who_it_is_may_not():
    judge = {"name": "judge", "kind": "http", "url": "https://judge/x"}
    old = recipe(scoring__rewards=[judge])
    assert resume_violations(old, recipe(scoring__rewards=[{**judge, "timeout_s": 3.0, "token_file": "/t"}])) == []
    (line,) = resume_violations(old, recipe(scoring__rewards=[{**judge, "url": "https://other/x"}]))
    assert line.startswith("scoring.rewards.0.url = https://other/x: this run was started with https://judge/x")
