"""Each rule between sections broken once, and the settings next to it that are fine."""

import pytest
from orchestrator_folders import sections
from pydantic import ValidationError

from orchestrator.config import Recipe

BROKEN = [
    # changes, start of the line, what its reason says, what its remedy says
    (
        {"training__correction": {"kind": "none"}},
        "pacing.max_staleness = 4: ",
        "off-policy correction",
        "training.correction.kind=tis or pacing.max_staleness=0",
    ),
    (
        {
            "training__correction": {"kind": "none"},
            "pacing__max_staleness": 0,
            "generation__engine": {"dtype": "float32"},
        },
        "generation.engine.dtype = float32: ",
        "(bfloat16)",
        "generation.engine.dtype=bfloat16",
    ),
    (
        {"pacing__publish_interval_batches": 6},
        "pacing.publish_interval_batches = 6: ",
        "max_staleness + 1 = 5",
        "pacing.publish_interval_batches=5",
    ),
    (
        {"experience__capacity_groups": 79},
        "experience.capacity_groups = 79: ",
        "= 80 groups",
        "experience.capacity_groups=80",
    ),
    ({"generation__top_p": 0.9}, "generation.top_p = 0.9: ", "another policy", "generation.top_p=1"),
    ({"generation__top_k": 5}, "generation.top_k = 5: ", "another policy", "generation.top_k=0"),
    (
        {"generation__group_size": 1, "training__algorithm": {"kind": "grpo"}},
        "generation.group_size = 1: ",
        "GRPO",
        "generation.group_size=2",
    ),
    ({"scoring__reference": None}, "training.kl.where = reward: ", "no reference", "training.kl.where=none"),
    (
        {"scoring__reference": None, "training__algorithm": {"kind": "grpo"}},
        "training.kl.where = loss: ",
        "no reference",
        "training.kl.where=none",
    ),
    (
        {"training__kl": {"where": "none", "adaptive": True}},
        "training.kl.adaptive = True: ",
        "no KL penalty",
        "training.kl.adaptive=false",
    ),
    (
        {"training__kl": {"coefficient": 0.0, "adaptive": True}},
        "training.kl.adaptive = True: ",
        "coefficient is 0.0",
        "coefficient above 0",
    ),
    ({"model__random_init": True}, "model.random_init = True: ", "needs no weights", "scoring.reference=null"),
    (
        {"model__random_init": True, "scoring__reference": {"path": "r"}, "sft": {"base": "b", "path": "s.jsonl"}},
        "model.random_init = True: ",
        "would replace them",
        "model.random_init=false",
    ),
    ({"training__mini_batches": 3}, "training.mini_batches = 3: ", "16 groups", "training.mini_batches=2"),
    ({"training__mini_batches": 32}, "training.mini_batches = 32: ", "16 groups", "training.mini_batches=16"),
    (
        {"generation__engine": {"max_model_tokens": 8}},
        "generation.max_tokens = 8: ",
        "max_model_tokens = 8",
        "generation.max_tokens=7",
    ),
    (
        {"generation__engine": {"max_model_tokens": 20}, "data__max_prompt_tokens": 13},
        "generation.max_tokens = 8: ",
        "a prompt of 13 tokens",
        "generation.max_tokens=7",
    ),
    (
        {"data__system_prompt": "Be kind."},
        "data.system_prompt = 'Be kind.': ",
        "chat template",
        "data.chat_template=true",
    ),
    (
        {"scoring__rewards": [{"name": "r", "function": "a:b"}, {"name": "r", "function": "a:c"}]},
        "scoring.rewards = ['r', 'r']: ",
        "more than once",
        "a name of its own",
    ),
    (
        {"store__url": "s3://bucket/x", "store__retry_s": 900.0, "supervise__stall_s": 900.0},
        "store.retry_s = 900.0: ",
        "supervise.stall_s = 900.0 s",
        "store.retry_s=450",
    ),
    (
        {"ray__address": "auto", "metrics__bind": "192.0.2.7"},
        "metrics.bind = 192.0.2.7: ",
        "workers on other nodes",
        "metrics.bind=null",
    ),
    ({"supervise__stall_s": 64.0}, "supervise.stall_s = 64.0: ", "= 64.0 s", "supervise.stall_s=128"),
]

FINE = [
    {},
    {"pacing__max_staleness": 0, "training__correction": {"kind": "none"}},
    {"pacing__publish_interval_batches": 5},
    {"experience__capacity_groups": 80},
    {"scoring__reference": None, "training__kl": {"where": "none"}},
    {"scoring__reference": None, "training__kl": {"where": "none"}, "model__random_init": True},
    {"training__mini_batches": 16},
    {"generation__group_size": 1},  # a critic needs no others to compare with
    {"pacing__batch_groups": 13},  # PPO's own number of mini-batches divides any batch
    {"training__kl": {"coefficient": 0.0}},  # nothing to adapt, and null asks for nothing
    {"generation__engine": {"max_model_tokens": 21}, "data__max_prompt_tokens": 13},
    {"data__system_prompt": "Be kind.", "data__chat_template": True},
    {"supervise__stall_s": 64.1},
    {"ray__address": "auto", "metrics__bind": "0.0.0.0"},
    {"metrics__bind": "192.0.2.7"},
    {"store__retry_s": 900.0, "supervise__stall_s": 900.0},
]


def lines_of(changes):
    with pytest.raises(ValidationError) as caught:
        Recipe.model_validate(sections(**changes))
    (error,) = caught.value.errors()
    return str(error["ctx"]["error"]).splitlines()


@pytest.mark.parametrize(("changes", "start", "reason", "remedy"), BROKEN)
def test_a_broken_rule_is_one_line_with_field_value_and_remedy(changes, start, reason, remedy):
    (line,) = lines_of(changes)
    assert line.startswith(start)
    explained, _, advice = line.removeprefix(start).partition("; ")
    assert reason in explained
    assert remedy in advice


@pytest.mark.parametrize("changes", FINE)
def test_settings_at_the_limit_are_accepted(changes):
    Recipe.model_validate(sections(**changes))


def test_all_broken_rules_are_reported():
    lines = lines_of({"generation__top_p": 0.5, "generation__top_k": 2, "training__mini_batches": 5})
    assert [line.split(" = ")[0] for line in lines] == [
        "generation.top_p",
        "generation.top_k",
        "training.mini_batches",
    ]
