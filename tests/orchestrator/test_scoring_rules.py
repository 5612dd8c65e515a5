"""What the rules about the reward refuse, each with a remedy."""

import pytest

from gen_cluster.config import GenerationConfig
from orchestrator.ray_config import RayConfig
from orchestrator.rules.every import violations
from score_cluster.config import ScoringConfig

MODEL = {"name": "m", "kind": "model", "path": "/m"}
HTTP = {"name": "h", "kind": "http", "url": "https://judge:1/x"}
LENGTH = {"name": "l", "kind": "length"}


def refused(*rewards, generation=None, scorer=None, **scoring):
    """The lines of all rules about these sections."""
    given = {
        "scoring": ScoringConfig.model_validate({"rewards": rewards, **scoring}),
        "generation": GenerationConfig.model_validate(generation or {}),
        "ray": RayConfig.model_validate({"resources": {"scoring": scorer or {}}}),
    }
    return violations(given)


@pytest.mark.parametrize(
    ("reward", "line"),
    [
        ({"name": "a.b", "kind": "length"}, "scoring.rewards.0.name = a.b: a name is not empty and has no dot"),
        (MODEL | {"path": None}, "scoring.rewards.0.path = null: no reward model is named"),
        (MODEL | {"path": None, "paths": ["/m"]}, "scoring.rewards.0.path = null: no reward model is named"),
        (MODEL | {"paths": ["/m", "/n"]}, "scoring.rewards.0.paths = ['/m', '/n']: scoring.rewards.0.path is given"),
        (
            MODEL | {"path": None, "paths": ["/m", "/n", "/m"]},
            "scoring.rewards.0.paths = ['/m', '/n', '/m']: /m stands there",
        ),
        (MODEL | {"engine": "vllm", "precision": "int8"}, "scoring.rewards.0.precision = int8: vLLM's pooling engine"),
        (MODEL | {"engine": "vllm", "path": None, "paths": ["/m", "/n"]}, "scoring.rewards.0.engine = vllm: a process"),
        (MODEL | {"tensor_parallel": 2}, "scoring.rewards.0.tensor_parallel = 2: only vLLM shares"),
        (
            {"name": "o", "kind": "overlong", "max_tokens": 10, "buffer_tokens": 11},
            "scoring.rewards.0.buffer_tokens = 11: longer than the 10",
        ),
        (HTTP | {"url": "judge:80"}, "scoring.rewards.0.url = judge://80: not an address"),
        (HTTP | {"url": "http://h:x/"}, "scoring.rewards.0.url = (an address that cannot be read): not an address"),
        (HTTP | {"url": "https://me:secret@judge/x"}, "scoring.rewards.0.url = https://judge/x: holds a user"),
        (HTTP | {"url": "https://judge/x?key=secret"}, "scoring.rewards.0.url = https://judge/x: holds a query"),
        (HTTP | {"url": "https://judge/a b"}, "scoring.rewards.0.url = https://judge/a b: holds characters"),
        (HTTP | {"token_file": "/t", "token_variable": "T"}, "scoring.rewards.0.token_file = /t: "),
        (HTTP | {"url": "http://h/", "ca_file": "/c"}, "scoring.rewards.0.ca_file = /c: http://h/ is not encrypted"),
        (HTTP | {"timeout_s": 90}, "scoring.rewards.0.timeout_s = 90: a group has scoring.rewards.0.budget_s = 60 s"),
    ],
)
def test_a_component_is_refused(reward, line):
    (said,) = refused(reward)
    assert said.startswith(line)
    assert "; " in said
    assert "secret" not in said


def test_names_in_the_combination_are_components():
    combine = {"kind": "lexicographic", "order": ["l", "x"], "tolerance": {"y": 1.0, "l": -1.0}}
    said = refused(LENGTH, combine=combine, constraints=[{"component": "z", "threshold": 0.0}])
    starts = [
        "scoring.constraints.0.component = z: no component has this name; name one of l",
        "scoring.combine.order.1 = x: no component",
        "scoring.combine.tolerance.y = y: no component",
        "scoring.combine.tolerance.l = -1: out of range",
    ]
    assert [line[: len(start)] for line, start in zip(said, starts, strict=True)] == starts


@pytest.mark.parametrize("combine", [{"kind": "normalised"}, {"kind": "lexicographic", "order": ["l"]}])
def test_one_completion_cannot_be_compared(combine):
    (said,) = refused(LENGTH, generation={"group_size": 1}, combine=combine)
    assert said.startswith(f"generation.group_size = 1: scoring.combine.kind={combine['kind']} compares")
    assert refused(LENGTH, generation={"group_size": 2}, combine=combine) == []


def test_two_engines_of_vllm_are_one_too_many():
    (said,) = refused(MODEL | {"engine": "vllm"}, MODEL | {"engine": "vllm", "name": "n"})
    assert said.startswith("scoring.rewards.1.engine = vllm: scoring.rewards.0 has one already")


def test_gpus_suffice_for_the_split():
    split = MODEL | {"engine": "vllm", "tensor_parallel": 4}
    (said,) = refused(split, scorer={"gpus": 2})
    assert said.startswith("scoring.rewards.0.tensor_parallel = 4: a scorer has ray.resources.scoring.gpus = 2")
    assert refused(split, scorer={"gpus": 4}) == refused(split) == []
