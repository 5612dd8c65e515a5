"""Placement groups of an existing cluster: a run's share of it, taken as a whole before anything starts.

Every engine, every scorer and the set of all ranks has a group of its own; a worker that starts anew finds its place
still reserved. When a node dies, Ray moves the groups that were on it to nodes with room, and their workers wait for that.
"""

import time
from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray._private import state
from ray._raylet import PlacementGroupID
from ray.util.placement_group import PlacementGroup, placement_group, placement_group_table, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.errors import RunFailed
from orchestrator.placement import Ask, Resources, inventory, shown, total

_SLICE_S = 1
"""Of waiting inside Ray, which hears no Ctrl-C meanwhile."""


class Reservation:
    """reserve, then `options` for each actor; `release` ends whatever still runs in the groups.

    `prefix` names the groups of a run's life, which outlive their driver; None: nameless groups that end with it.
    """

    def __init__(self, asks: Iterable[Ask], *, prefix: str | None) -> None:
        self._asks = {ask.name: ask for ask in asks}
        self._prefix = prefix
        self._groups: dict[str, PlacementGroup] = {}

    def reserve(self, *, within_s: float, tell: Callable[[str], None]) -> None:
        """RunFailed: the cluster had no room for all of it in that time. A wait is told of, once."""
        deadline, told = time.monotonic() + within_s, False
        for ask in self._asks.values():
            self._groups[ask.name] = placement_group(
                [dict(bundle) for bundle in ask.bundles],
                strategy="STRICT_PACK" if len(ask.bundles) == 1 else "PACK",
                name=f"{self._prefix}/{ask.name}" if self._prefix else "",
                lifetime="detached" if self._prefix else None,
            )
        for name, group in self._groups.items():
            while not group.wait(_SLICE_S):
                if time.monotonic() > deadline:
                    line = (
                        f"ray.placement_s = {within_s:g}: the cluster had no room in that time for {self._state(name)}"
                    )
                    raise RunFailed(
                        f"{line}; end what holds it, add a node, or lower what the run asks for (ray.resources)"
                    )
                if not told:
                    tell(f"waiting for room on the cluster, {within_s:g} s at most: {self._state(name)}")
                    told = True

    def options(self, kind: str, index: int) -> dict[str, Any]:
        """Options of the actor that takes this place: exactly what was reserved for it."""
        name, at = ("rank", index) if kind == "rank" else (f"{kind}-{index}", 0)
        bundle = dict(self._asks[name].bundles[at])
        return {
            "num_cpus": bundle.pop("CPU"),
            "num_gpus": bundle.pop("GPU", 0),
            "resources": bundle,
            "scheduling_strategy": PlacementGroupSchedulingStrategy(
                placement_group=self._groups[name], placement_group_bundle_index=at
            ),
        }

    def nodes(self) -> set[str]:
        """Ids of the nodes on which places are reserved."""
        return {
            node
            for group in self._groups.values()
            for node in placement_group_table(group)["bundles_to_node_id"].values()
        }

    def release(self) -> None:
        for group in self._groups.values():
            remove_placement_group(group)
        self._groups.clear()

    def _state(self, name: str) -> str:
        """What was asked, what there is, who holds it."""
        ask, names = self._asks[name], addresses()
        free = {names[node]: left for node, left in state.available_resources_per_node().items() if node in names}
        return f"{ask}; it has {inventory([ask], node_resources(), free)}; {self._holders()}"

    def _holders(self) -> str:
        own = {group.id.hex() for group in self._groups.values()}
        held = [
            f"{group['name'] or identity[:8]} ({shown(total(group['bundles'].values()))})"
            for identity, group in placement_group_table().items()
            if group["state"] == "CREATED" and identity not in own
        ]
        return f"placement groups hold {', '.join(held)}" if held else "no other placement group holds any of it"


def addresses() -> dict[str, str]:
    """Id -> address of each living node, sorted by address; several at one address are told apart by their ids."""
    alive = [(node["NodeID"], node["NodeManagerAddress"]) for node in ray.nodes() if node["Alive"]]
    alive.sort(key=lambda node: (node[1], node[0]))
    seen = [address for _, address in alive]
    return {node: f"{address} ({node[:6]})" if seen.count(address) > 1 else address for node, address in alive}


def node_resources() -> dict[str, Resources]:
    """Address -> all that the node has."""
    has = {node["NodeID"]: node["Resources"] for node in ray.nodes()}
    return {address: has[node] for node, address in addresses().items() if node in has}


def remove_groups(names: Iterable[str]) -> None:
    """Remove groups by name, those of drivers that are gone included."""
    wanted = set(names)
    for identity, group in placement_group_table().items():
        if group["name"] in wanted and group["state"] != "REMOVED":
            remove_placement_group(PlacementGroup(PlacementGroupID(bytes.fromhex(identity))))


def group_names() -> list[str]:
    return [group["name"] for group in placement_group_table().values() if group["state"] != "REMOVED"]
