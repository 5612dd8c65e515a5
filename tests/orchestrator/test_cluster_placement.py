"""What a run asks of a cluster, and what is refused at once, with numbers and without Ray."""

import pytest
from orchestrator_recipes import a_recipe

from orchestrator.network import interface_of
from orchestrator.placement import impossible, rank_ask, worker_asks
from orchestrator.ray_config import PASSED_ON, RayConfig
from orchestrator.versions import differences, mine


def asks(recipe, *, gpus=True):
    return [*worker_asks(recipe, gpus=gpus), rank_ask(recipe, gpus=gpus)]


def test_an_engine_takes_its_gpus_from_one_node_and_the_ranks_are_one_gang():
    recipe = a_recipe(generation__workers=2, generation__engine={"tensor_parallel": 4}, training__ranks=3)
    assert [(ask.name, ask.bundles) for ask in asks(recipe)] == [
        ("gen-0", ({"GPU": 4, "CPU": 2},)),
        ("gen-1", ({"GPU": 4, "CPU": 2},)),
        ("score-0", ({"GPU": 1, "CPU": 1},)),
        ("rank", ({"GPU": 1, "CPU": 1},) * 3),
    ]


def test_without_gpus_in_the_cluster_none_are_asked_for():
    assert [dict(ask.bundles[0]) for ask in asks(a_recipe(), gpus=False)] == [{"CPU": 2}, {"CPU": 1}, {"CPU": 1}]


def test_a_role_takes_what_the_recipe_says():
    roles = {"scoring": {"gpus": 0.5, "cpus": 3}, "generation": {"custom": {"spot": 1}}, "training": {"gpus": 0}}
    generation, scoring, ranks = asks(a_recipe(ray__resources=roles))
    assert generation.bundles == ({"GPU": 1, "CPU": 2, "spot": 1},)
    assert scoring.bundles == ({"GPU": 0.5, "CPU": 3},)
    assert ranks.bundles[0] == {"CPU": 1}


def test_what_no_node_has_is_refused_whoever_holds_it_now():
    recipe = a_recipe(generation__engine={"tensor_parallel": 8})
    nodes = {"10.0.0.2": {"GPU": 4.0, "CPU": 16.0}, "10.0.0.3": {"GPU": 4.0, "CPU": 16.0}}
    assert impossible(asks(recipe), nodes) == [
        "ray.resources.generation = GPU 8, CPU 2: gen-0 needs this on one node, and no node of the cluster has it "
        "(10.0.0.2: GPU 4, CPU 16; 10.0.0.3: GPU 4, CPU 16); lower it (generation.engine.tensor_parallel), "
        "or add such a node"
    ]


def test_more_than_all_nodes_have_together_is_refused():
    recipe = a_recipe(generation__engine={"tensor_parallel": 4}, training__ranks=4)
    nodes = {"10.0.0.2": {"GPU": 4.0, "CPU": 16.0}, "10.0.0.3": {"GPU": 4.0, "CPU": 16.0}}
    (line,) = impossible(asks(recipe), nodes)
    assert line.startswith(
        "ray.resources = GPU 9: the run asks for so much in all (gen-0 (GPU 4, CPU 2), score-0 (GPU 1, CPU 1), "
        "rank (4 × GPU 1, CPU 1)), and the cluster has GPU 8"
    )
    assert impossible(asks(a_recipe(generation__engine={"tensor_parallel": 4}, training__ranks=3)), nodes) == []


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("ray://head:10001", "a Ray client drives the cluster through a proxy"),
        ("head", "it names no cluster"),
        ("head:0", "it names no cluster"),
        (":6379", "it names no cluster"),
        ("head:70000", "it names no cluster"),
    ],
)
def test_an_address_that_names_no_cluster_is_refused_with_the_remedy(address, reason):
    with pytest.raises(ValueError, match=reason) as refused:
        RayConfig(address=address)
    assert "set ray.address=" in str(refused.value)


@pytest.mark.parametrize("address", ["local", "auto", "head:6379", "10.0.0.2:6379", "[::1]:6379"])
def test_an_address_that_names_one_is_taken(address):
    assert RayConfig(address=address).existing == (address != "local")


@pytest.mark.parametrize(
    ("role", "reason"),
    [
        ({"gpus": 1.5}, "more than one only whole"),
        ({"custom": {"GPU": 1}}, "is no custom resource"),
        ({"custom": {"spot": 0}}, "above 0"),
    ],
)
def test_resources_that_ray_would_refuse_are_refused_at_once(role, reason):
    with pytest.raises(ValueError, match=reason):
        RayConfig(resources={"scoring": role})  # type: ignore[arg-type]


def test_engines_that_share_a_model_take_whole_gpus_as_many_as_they_are():
    with pytest.raises(ValueError, match=r"ray\.resources\.generation\.gpus = 2"):
        a_recipe(generation__engine={"tensor_parallel": 4}, ray__resources={"generation": {"gpus": 2}})
    with pytest.raises(ValueError, match=r"ray\.resources\.training\.gpus = 2"):
        a_recipe(ray__resources={"training": {"gpus": 2}})


def test_only_named_variables_are_passed_on():
    here = {"AWS_REGION": "r", "AWSOME": "x", "HF_HOME": "/h", "PATH": "/bin", "HOME": "/root", "SSL_CERT_FILE": "/c"}
    assert RayConfig().environment(here) == {"AWS_REGION": "r", "HF_HOME": "/h", "SSL_CERT_FILE": "/c"}
    assert RayConfig(pass_environment=("PATH",)).environment(here) == {"PATH": "/bin"}
    assert RayConfig(pass_environment=()).environment(here) == {}
    assert "HEADRACE_*" in PASSED_ON
    with pytest.raises(ValueError, match="names no environment variable"):
        RayConfig(pass_environment=("*",))


def test_another_version_is_named_with_its_node_and_both_versions():
    ours = mine()
    assert differences("10.0.0.3", ours, ours) == []
    theirs = {**ours, "torch": "2.12.0"}
    del theirs["ray"]
    assert differences("10.0.0.3", theirs, ours) == [
        f"node 10.0.0.3: ray is absent, and the driver has {ours['ray']}; install the same packages on every node",
        f"node 10.0.0.3: torch 2.12.0, and the driver has {ours['torch']}; install the same packages on every node",
    ]


def test_the_device_of_an_address():
    assert interface_of("127.0.0.1") == interface_of("127.0.0.3") == "lo"
    assert interface_of("203.0.113.9") == ""
