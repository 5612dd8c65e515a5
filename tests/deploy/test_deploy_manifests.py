"""Compose, Kubernetes and SkyPilot: their files fit together, and what security asks of them. Their formats were held against
the schemas of Kubernetes, KubeRay and Compose by hand; here is what must not be lost. Seconds: 3."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.k8s import generate_rules
from orchestrator import recipe as recipes
from orchestrator.config import changed_keys, resumable
from orchestrator.placement import rank_ask, worker_asks

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
K8S = DEPLOY / "k8s"
POOLS = ("generation", "scoring", "training")


def load(path: str) -> Any:
    return yaml.safe_load((DEPLOY / path).read_text())


def documents(path: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / path).read_text()))


@pytest.fixture
def cluster() -> dict[str, Any]:
    (job,) = documents("k8s/base/rayjob.yaml")
    return job["spec"]["rayClusterSpec"]


# -- compose -----------------------------------------------------------------------------------------------------------
def test_every_service_listens_on_loopback_alone() -> None:
    services = load("compose/compose.yaml")["services"]
    assert all(port.startswith("127.0.0.1:") for port in services["redis"]["ports"])
    assert "--web.listen-address=127.0.0.1:9090" in services["prometheus"]["command"]
    assert services["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    for name in ("prometheus", "grafana"):
        assert services[name]["network_mode"] == "host"
        assert "ports" not in services[name]


def test_compose_takes_its_passwords_from_files_that_git_does_not_know() -> None:
    compose = load("compose/compose.yaml")
    assert {secret["file"] for secret in compose["secrets"].values()} == {
        "./secrets/redis.password",
        "./secrets/grafana.password",
    }
    assert "secrets/" in (DEPLOY / "compose" / ".gitignore").read_text().splitlines()
    for service in compose["services"].values():
        assert service["image"].partition(":")[2] not in ("", "latest")
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]


def test_what_compose_mounts_is_there() -> None:
    mounts = [mount for service in load("compose/compose.yaml")["services"].values() for mount in service["volumes"]]
    own = [mount.partition(":")[0] for mount in mounts if mount.startswith("../")]
    assert len(own) == 4
    assert all((DEPLOY / "compose" / path).exists() for path in own)
    (job,) = load("prometheus/prometheus.yml")["scrape_configs"]
    assert job["file_sd_configs"][0]["files"] == ["/srv/headrace/runs/.targets/*.json"], "where compose mounts RUNS"


def test_redis_keeps_what_it_acknowledges() -> None:
    lines = (K8S / "base" / "redis.conf").read_text().splitlines()
    assert {"appendonly yes", "appendfsync always", "maxmemory-policy noeviction"} <= set(lines)
    assert not any(line.startswith("requirepass") for line in lines)
    for script in ("slurm/headrace.sbatch", "skypilot/trainer.sh"):
        text = (DEPLOY / script).read_text()
        assert all(
            f'"{line}"' in text for line in ("appendonly yes", "appendfsync always", "maxmemory-policy noeviction")
        )


# -- Kubernetes --------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("folder", ["base", "monitoring", "overlays/kind", "overlays/llama-70b"])
def test_a_kustomization_names_files_that_are_there_and_all_of_them(folder: str) -> None:
    content = load(f"k8s/{folder}/kustomization.yaml")
    named = [*content.get("resources", []), *content.get("components", [])]
    named += [file for one in content.get("configMapGenerator", []) for file in one.get("files", [])]
    named += [patch["path"] for patch in content.get("patches", []) if "path" in patch]
    assert all((K8S / folder / name).exists() for name in named)
    assert {file.name for file in (K8S / folder).iterdir() if file.is_file()} == {
        "kustomization.yaml",
        *(name for name in named if "/" not in name),
    }


def test_targets_over_http_are_marked_so_that_an_ended_driver_rings_no_alert() -> None:
    (operator,) = [one for one in documents("k8s/monitoring/scrape.yaml") if one["kind"] == "ScrapeConfig"]
    (job,) = load("prometheus/prometheus-http.yml")["scrape_configs"]
    assert operator["spec"]["relabelings"] == [{"targetLabel": "discovery", "replacement": "http"}]
    assert job["relabel_configs"] == [{"target_label": "discovery", "replacement": "http"}]
    assert 'discovery!="http"' in (DEPLOY / "prometheus" / "rules" / "alerts.yml").read_text()


def test_every_dashboard_becomes_a_config_map() -> None:
    folder = DEPLOY / "grafana" / "dashboards"
    maps = yaml.safe_load((folder / "kustomization.yaml").read_text())["configMapGenerator"]
    assert sorted(file for one in maps for file in one["files"]) == sorted(file.name for file in folder.glob("*.json"))


def test_the_rules_for_the_operator_are_those_of_prometheus() -> None:
    assert generate_rules.TARGET.read_text() == generate_rules.rendered(), "python -m deploy.k8s.generate_rules"


def test_every_pod_is_confined_and_takes_secrets_by_reference(cluster: dict[str, Any]) -> None:
    pods = [cluster["headGroupSpec"]["template"]["spec"]]
    pods += [group["template"]["spec"] for group in cluster["workerGroupSpecs"]]
    (redis,) = [one for one in documents("k8s/base/redis.yaml") if one["kind"] == "StatefulSet"]
    (job,) = documents("k8s/base/rayjob.yaml")
    submitter = job["spec"]["submitterPodTemplate"]["spec"]
    assert job["spec"]["submissionMode"] == "K8sJobMode", "the sidecar of the other mode cannot be confined"
    for pod in (*pods, submitter, redis["spec"]["template"]["spec"]):
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
    for pod in pods:
        environment = {one["name"]: one for one in pod["containers"][0]["env"]}
        assert "value" not in environment["HEADRACE_REDIS_PASSWORD"]
        assert environment["RAY_worker_niceness"]["value"] == "0"
    assert not any(
        one["kind"] == "Secret"
        for path in K8S.rglob("*.yaml")
        for one in yaml.safe_load_all(path.read_text())
        if "kind" in one
    )
    assert cluster["authOptions"] == {"mode": "token"}


def test_each_role_has_a_group_of_its_own(cluster: dict[str, Any]) -> None:
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    assert tuple(groups) == POOLS
    for name, group in groups.items():
        assert json.loads(json.loads(group["rayStartParams"]["resources"])) == {name: 1000}
        labels = {"app.kubernetes.io/part-of": "headrace", "app.kubernetes.io/component": name}
        assert group["template"]["metadata"]["labels"] == labels, "as network.yaml and disruption.yaml select"
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0", "num-gpus": "0"}


def test_redis_and_ray_are_reached_by_whom_they_serve_alone() -> None:
    ray, redis = documents("k8s/base/network.yaml")
    assert ray["spec"]["policyTypes"] == redis["spec"]["policyTypes"] == ["Ingress"]
    (source,) = redis["spec"]["ingress"]
    assert source["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "headrace"}}}]
    metrics = ray["spec"]["ingress"][-1]["ports"]
    assert metrics == [{"port": 9400, "endPort": 65535}], "workers' metrics take free ports"
    (budget,) = documents("k8s/base/disruption.yaml")
    assert budget["spec"]["minAvailable"] > 1000, "maxUnavailable asks for a controller with a scale"
    assert "maxUnavailable" not in budget["spec"]
    (chosen,) = budget["spec"]["selector"]["matchExpressions"]
    assert chosen["values"] == ["head", "training", "redis"], "engines and scorers may go at any time"


def patched(cluster: dict[str, Any]) -> dict[str, Any]:
    """The 70B overlay's sizes put into the base, as kustomize does it."""
    for patch in load("k8s/overlays/llama-70b/sizes.yaml"):
        *way, leaf = patch["path"].removeprefix("/spec/rayClusterSpec/").split("/")
        node: Any = cluster
        for key in way:
            node = node[int(key) if isinstance(node, list) else key]
        assert patch["op"] == "add" or leaf in node, patch["path"]
        node[leaf] = patch["value"]
    return cluster


def test_the_70b_overlay_has_the_gpus_of_its_recipe_role_by_role(cluster: dict[str, Any]) -> None:
    head = {one["name"]: one for one in patched(cluster)["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]}
    assert head["HEADRACE_RUN"]["value"] == "llama-70b"
    recipe = recipes.load(ROOT / head["HEADRACE_RECIPE"]["value"].removeprefix("/"))
    asked = dict.fromkeys(POOLS, 0.0)
    for ask in [*worker_asks(recipe, gpus=True), rank_ask(recipe, gpus=True)]:
        asked[ask.key.rpartition(".")[2]] += sum(bundle["GPU"] for bundle in ask.bundles)
    given = {}
    for group in cluster["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        given[group["groupName"]] = group["replicas"] * float(container["resources"]["limits"]["nvidia.com/gpu"])
        assert group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    assert given == asked


@pytest.mark.parametrize(("overlay", "recipe"), [("kind", "reverse"), ("llama-70b", "llama-70b-72gpu")])
def test_run_sh_starts_and_resumes_with_settings_that_the_recipe_takes(
    overlay: str, recipe: str, tmp_path: Path
) -> None:
    (generator,) = load(f"k8s/overlays/{overlay}/kustomization.yaml")["configMapGenerator"]
    (literal,) = generator["literals"]
    (tmp_path / "overrides").write_text(literal.removeprefix("overrides="))
    command = tmp_path / "headrace"
    command.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    command.chmod(0o755)
    script = (K8S / "base" / "run.sh").read_text()
    script = script.replace("/etc/headrace/", f"{tmp_path}/").replace("/runs", f"{tmp_path}/runs")
    file = str(ROOT / "recipes" / f"{recipe}.yaml")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HEADRACE_RUN": "trial", "HEADRACE_RECIPE": file}

    def asked() -> list[str]:
        return subprocess.run(
            ["sh", "-c", script], env=environment, capture_output=True, text=True, check=True
        ).stdout.splitlines()

    verb, path, *settings = asked()
    assert (verb, path) == ("run", file)
    made = recipes.load(Path(path), settings)
    assert made.run.name == "trial"
    assert made.metrics.port == 9400
    assert all(getattr(made.ray.resources, pool).custom == {pool: 1} for pool in POOLS)

    (tmp_path / "runs" / "trial").mkdir(parents=True)
    (tmp_path / "runs" / "trial" / "recipe.yaml").write_text(recipes.dump(made))
    verb, path, *settings = asked()
    assert (verb, path) == ("resume", f"{tmp_path}/runs/trial")
    again = recipes.load_dumped(tmp_path / "runs" / "trial" / "recipe.yaml", settings)
    assert all(map(resumable, changed_keys(made, again)))


@pytest.mark.skipif(not shutil.which("kubectl"), reason="there is no kubectl on PATH; the other tests read the files")
@pytest.mark.parametrize(
    ("overlay", "image"), [("kind", "headrace:cpu"), ("llama-70b", "registry.example.com/headrace:gpu")]
)
def test_kustomize_builds_the_overlay(overlay: str, image: str) -> None:
    command = ["kubectl", "kustomize", str(K8S / "overlays" / overlay)]
    built = list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    (job,) = [one for one in built if one["kind"] == "RayJob"]
    cluster = job["spec"]["rayClusterSpec"]
    pods = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    assert {pod["template"]["spec"]["containers"][0]["image"] for pod in pods} == {image}
    maps = {one["metadata"]["name"]: one["data"] for one in built if one["kind"] == "ConfigMap"}
    volumes = {volume["name"]: volume for volume in pods[0]["template"]["spec"]["volumes"]}
    assert "ray.address=auto" in maps[volumes["run"]["configMap"]["name"]]["overrides"]
    assert {one["metadata"].get("namespace") for one in built if one["kind"] != "Namespace"} == {"headrace"}


# -- SkyPilot ----------------------------------------------------------------------------------------------------------
def test_spot_instances_hold_no_state() -> None:
    trainer, generation = load("skypilot/trainer.yaml"), load("skypilot/generation.yaml")
    assert trainer["resources"]["use_spot"] is False
    assert generation["resources"]["use_spot"] is True
    assert trainer["secrets"] == {"RAY_TOKEN": None, "REDIS_PASSWORD": None}
    assert generation["secrets"] == {"RAY_TOKEN": None}
    for task in (trainer, generation):
        scripts = [task[key].removeprefix("bash ") for key in ("setup", "run")]
        assert all((ROOT / script).is_file() for script in scripts)


def test_skypilots_nodes_are_those_of_the_recipe() -> None:
    task = load("skypilot/trainer.yaml")
    recipe = recipes.load(ROOT / task["envs"]["RECIPE"])
    gpus = int(task["resources"]["accelerators"].partition(":")[2])
    generation = recipe.generation.workers * recipe.generation.engine.tensor_parallel
    rest = recipe.training.ranks + recipe.scoring.workers * recipe.scoring.reference.gpus
    assert task["num_nodes"] * gpus == rest
    assert int(task["envs"]["GENERATION_NODES"]) * gpus == generation
