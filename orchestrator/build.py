"""Builds the worker that an actor host runs, from the mapping that came with the actor's creation."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experience.schema import Controls
from orchestrator import faults
from orchestrator.config import Recipe, fingerprint
from orchestrator.critic import critic_folder
from orchestrator.folder import RunFolder
from orchestrator.stores import LINEAGE, open_buffer, open_ledger, open_store


def build(spec: Mapping[str, Any]) -> Any:
    """kind: gen | score | rank | eval."""
    return {"gen": _generation, "score": _scoring, "rank": _rank, "eval": _evaluation}[spec["kind"]](_Parts(spec))


def load(spec: Mapping[str, Any]) -> None:
    """Import what a worker of this kind is built from, and build nothing."""
    if spec["kind"] == "gen":
        from gen_cluster.vllm_engine import load_vllm

        load_vllm(Recipe.model_validate(spec["recipe"]).generation.engine)
    elif spec["kind"] == "score":
        from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

        import score_cluster.worker  # noqa: F401


class _Parts:
    """What every kind needs."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        import os

        self.spec = spec
        self.recipe = Recipe.model_validate(spec["recipe"])
        self.folder = RunFolder(Path(spec["folder"]))
        self.reached = faults.from_environment(os.environ, markers=self.folder.faults, driver_pid=spec["driver_pid"])

    def buffer(self) -> Any:
        epochs = {"run_epoch": self.spec["run_epoch"], "trainer_epoch": self.spec["trainer_epoch"]}
        return open_buffer(self.recipe, self.folder, **epochs)

    def weights(self) -> Any:
        from weightstore.fetch import StoreWeightSource

        return StoreWeightSource(
            open_store(self.recipe, self.folder),
            lineage=LINEAGE,
            run_epoch=self.spec["run_epoch"],
            threads=self.recipe.store.fetch_threads,
        )


def _generation(parts: _Parts) -> Any:
    from gen_cluster.vllm_engine import VllmEngine
    from gen_cluster.worker import GenerationWorker

    recipe = parts.recipe
    return GenerationWorker(
        recipe.generation,
        name=parts.spec["consumer"],
        engine=VllmEngine(recipe.generation.engine, model_path=recipe.model.path),
        buffer=parts.buffer(),
        weights=parts.weights(),
        lease_s=recipe.experience.lease_s,
        alone_limit=recipe.experience.alone_limit,
        reached=parts.reached,
        began=parts.spec["began"],
    )


def _scoring(parts: _Parts) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer  # here, where the collector is off  # noqa: F401

    from score_cluster.worker import ScoringWorker

    recipe = parts.recipe
    return ScoringWorker(
        recipe.scoring,
        name=parts.spec["consumer"],
        model_path=recipe.model.path,
        buffer=parts.buffer(),
        lease_s=recipe.experience.lease_s,
        alone_limit=recipe.experience.alone_limit,
        kl_target_nats=None if recipe.training.kl_in_force.where == "none" else recipe.training.kl.target_nats,
        reached=parts.reached,
        began=parts.spec["began"],
    )


def _evaluation(parts: _Parts) -> Any:
    from orchestrator.evaluation.plan import plan_of
    from orchestrator.periodic.examiner import VersionExaminer
    from orchestrator.periodic.worker import EvaluationWorker

    recipe = parts.recipe
    return EvaluationWorker(
        examiner=VersionExaminer(
            plan_of(recipe), baseline=None if recipe.model.random_init else Path(recipe.model.path)
        ),
        weights=parts.weights(),
        model_path=recipe.model.path,
        best=parts.folder.best,
        reached=parts.reached,
    )


def _rank(parts: _Parts) -> Any:
    from train_cluster.worker import TrainerRank

    spec, recipe = parts.spec, parts.recipe
    algorithm, critic = recipe.training.algorithm, critic_folder(recipe)
    return TrainerRank(
        run_id=parts.folder.run_id,
        lineage=LINEAGE,
        epoch=spec["trainer_epoch"],
        rank=spec["rank"],
        world_size=spec["world_size"],
        master_addr=spec["master_addr"],
        master_port=spec["master_port"],
        interface=spec["interface"],
        config=recipe.training,
        pacing=recipe.pacing,
        store_config=recipe.store,
        model_path=recipe.model.path,
        critic_path=critic.path if critic else None,
        random_init=recipe.model.random_init,
        seed=recipe.run.seed,
        config_hash=fingerprint(recipe),
        controls=Controls(
            learning_rate_scale=1.0,
            kl_scale=1.0,
            clip_low=algorithm.clip_low,
            clip_high=algorithm.clip_high,
            temperature=recipe.generation.temperature,
        ),
        store=open_store(recipe, parts.folder),
        ledger=open_ledger(recipe, parts.folder),
        buffer=parts.buffer() if spec["with_buffer"] else None,
        drop_after_s=recipe.generation.deadline_s if recipe.pacing.late == "drop" else None,
        reached=parts.reached,
        began=parts.spec["began"],
    )
