"""What a run asks of an existing cluster, and whether the cluster can ever give it: names and numbers, no Ray."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from orchestrator.config import Recipe
from orchestrator.ray_config import RoleConfig

Resources = Mapping[str, float]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ask:
    """Processes that are placed together or not at all, each on one node."""

    name: str
    """gen-0, score-1, …; `rank` for all ranks."""
    key: str
    """The recipe's section that says so."""
    bundles: tuple[Resources, ...]
    """What each process takes."""

    def __str__(self) -> str:
        count = f"{len(self.bundles)} × " if len(self.bundles) > 1 else ""
        return f"{self.name} ({count}{shown(self.bundles[0])})"


def rank_ask(recipe: Recipe, *, gpus: bool) -> Ask:
    """`gpus`: the cluster has some."""
    role, training = recipe.ray.resources.training, recipe.training
    bundle = _bundle(role, threads=training.threads, gpus=1 if gpus else 0)
    return Ask(name="rank", key="ray.resources.training", bundles=(bundle,) * training.ranks)


def worker_asks(recipe: Recipe, *, gpus: bool) -> list[Ask]:
    """One for each engine, scorer and evaluator, engines first: what needs many GPUs of one node is placed before what fits anywhere."""
    engine, roles = recipe.generation.engine, recipe.ray.resources
    generation = _bundle(roles.generation, threads=engine.threads, gpus=engine.tensor_parallel if gpus else 0)
    scoring = _bundle(roles.scoring, threads=recipe.scoring.threads, gpus=1 if gpus else 0)
    evaluation = _bundle(roles.evaluation, threads=engine.threads, gpus=engine.tensor_parallel if gpus else 0)
    evaluators = 1 if recipe.evaluates_itself else 0
    return [
        *_each("gen", "ray.resources.generation", recipe.generation.workers, generation),
        *_each("eval", "ray.resources.evaluation", evaluators, evaluation),
        *_each("score", "ray.resources.scoring", recipe.scoring.workers, scoring),
    ]


def impossible(asks: Iterable[Ask], nodes: Mapping[str, Resources]) -> list[str]:
    """A line for each ask that no waiting can fulfil, and for each resource of which all asks together need too much.

    nodes: address -> all that the node has, whoever holds it now.
    """
    asks, lines = list(asks), []
    refused: set[tuple[str, str]] = set()
    for ask in asks:
        wanted = shown(ask.bundles[0])
        if (ask.key, wanted) not in refused and not any(_fits(ask.bundles[0], has) for has in nodes.values()):
            refused.add((ask.key, wanted))
            lines.append(
                f"{ask.key} = {wanted}: {ask.name} needs this on one node, and no node of the cluster has it "
                f"({inventory(asks, nodes)}); lower it{_lower(ask)}, or add such a node"
            )
    if lines:
        return lines
    needed = total(bundle for ask in asks for bundle in ask.bundles)
    there = total(nodes.values())
    for name, amount in needed.items():
        if amount > there.get(name, 0) + 1e-6:
            lines.append(
                f"ray.resources = {name} {amount:g}: the run asks for so much in all ({', '.join(map(str, asks))}), and "
                f"the cluster has {name} {there.get(name, 0):g} ({inventory(asks, nodes)}); lower it, or add nodes"
            )
    return lines


def inventory(asks: Iterable[Ask], nodes: Mapping[str, Resources], free: Mapping[str, Resources] | None = None) -> str:
    """What each node has of the resources asked for; with `free`, how much of it nobody holds."""
    names = total(bundle for ask in asks for bundle in ask.bundles)
    parts = []
    for address, has in nodes.items():
        left = None if free is None else free.get(address, {})
        amounts = (
            f"{name} {has.get(name, 0):g}" + ("" if left is None else f" ({left.get(name, 0):g} free)")
            for name in names
        )
        parts.append(f"{address}: {', '.join(amounts)}")
    return "; ".join(parts)


def total(all_of: Iterable[Resources]) -> dict[str, float]:
    summed: dict[str, float] = {}
    for one in all_of:
        for name, amount in one.items():
            summed[name] = summed.get(name, 0) + amount
    return summed


def shown(bundle: Resources) -> str:
    return ", ".join(f"{name} {amount:g}" for name, amount in bundle.items())


def _each(kind: str, key: str, count: int, bundle: Resources) -> list[Ask]:
    return [Ask(name=f"{kind}-{index}", key=key, bundles=(bundle,)) for index in range(count)]


def _bundle(role: RoleConfig, *, threads: int, gpus: int) -> dict[str, float]:
    wanted = float(gpus if role.gpus is None else role.gpus)
    cpus = float(threads if role.cpus is None else role.cpus)
    return {**({"GPU": wanted} if wanted else {}), "CPU": cpus, **role.custom}


def _fits(bundle: Resources, has: Resources) -> bool:
    return all(amount <= has.get(name, 0) + 1e-6 for name, amount in bundle.items())


def _lower(ask: Ask) -> str:
    return " (generation.engine.tensor_parallel)" if ask.bundles[0].get("GPU", 0) > 1 else ""
