"""Two stages and the first life of a run in one session, on a Ray of this process's own, with stand-ins for the workers.

    python session_stages.py FOLDER        prints what was found, one JSON object

A stand-in rank loads nothing. Told so, its process is killed inside an operation, once.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

WORLD = 2


class Rank:
    """Of a TrainerRank that it is set up, called, and says how far it is."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._spec, self._step = spec, 0

    def setup(self, stage: str = "", **_: Any) -> dict[str, Any]:
        return {"stage": stage}

    def status(self) -> dict[str, Any]:
        return {"step": self._step}

    def where(self) -> dict[str, Any]:
        return {"pid": os.getpid(), "folder": Path(self._spec["folder"]).name, "meets": self._spec["master_port"]}

    def dies_once(self, marker: str) -> int:
        """Rank 1 does, and rank 0 fails as a collective does when a peer is gone; then both answer."""
        if not Path(marker).exists():
            if self._spec["rank"] == 1:
                Path(marker).touch()
                os.kill(os.getpid(), signal.SIGKILL)
            while not Path(marker).exists():
                time.sleep(0.01)
            raise RuntimeError("Connection closed by peer")
        return os.getpid()

    def fails(self, marker: str) -> None:
        with Path(marker).open("a") as file:
            file.write("called\n")
        raise ValueError("line 3: bad")


def build(spec: Mapping[str, Any]) -> Rank:
    return Rank(spec)


def load(spec: Mapping[str, Any]) -> None:
    """Nothing: the real one imports vLLM."""


def main(place: str) -> dict[str, Any]:
    from orchestrator_recipes import a_recipe

    from orchestrator.errors import RunFailed
    from orchestrator.folder import RunFolder
    from orchestrator.ranks import RankCrew
    from orchestrator.stages import session as sessions
    from orchestrator.stores import open_store
    from orchestrator.topology import Topology

    recipe = a_recipe(run__root=place, training__ranks=WORLD, generation__workers=1)
    folders = {name: RunFolder(Path(place) / name) for name in ("sft", "reward", "broken", "trial")}
    for folder in folders.values():
        folder.create()
    marker, found = str(Path(place) / "died"), {}
    builder = "session_stages:build"
    sessions.LOADER = "session_stages:load"
    with sessions.Session() as session:
        with RankCrew(recipe, folders["sft"], session=session, builder=builder, stage="sft") as crew:
            first = crew.call("where")
            found["after_death"] = crew.carry_out("dies_once", marker)
            found["sft"] = crew.call("where")
        found["first"] = first
        with RankCrew(recipe, folders["reward"], session=session, builder=builder, stage="reward") as crew:
            found["reward"] = crew.call("where")
        with session.cluster(recipe, folders["trial"], epoch=1, warn=print) as cluster:
            hosts = session.take("gen", "score", "rank")
            found["taken"] = sorted(hosts)
            store = open_store(recipe, folders["trial"])
            topology = Topology(
                recipe,
                folders["trial"],
                store=store,
                epoch=1,
                buffer=None,
                cluster=cluster,
                builder=builder,
                hosts=hosts,
            )
            ranks = topology.ranks(0, time.monotonic())
            import ray

            found["ready"] = ray.get([rank.setup_call for rank in ranks])
            found["run"] = ray.get([rank.actor.call.remote("where") for rank in ranks])
            for rank in ranks:
                rank.kill()
        try:
            with RankCrew(recipe, folders["broken"], session=session, builder=builder) as crew:
                crew.carry_out("fails", str(Path(place) / "failed"))
        except RunFailed as error:
            found["failed"] = str(error)
        found["kept_after_failure"] = sorted(session.take("rank"))
    return found


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1])))
