"""A deterministic engine and weight source behind the Protocols, for the logic of the worker."""

from collections.abc import Iterable, Mapping

import numpy as np

from experience.schema import Int32Array, Sampling, VersionSpan
from gen_cluster.engine import Finished, WeightsRefused
from weightstore.fetch import FetchedVersion
from weightstore.manifest import Manifest, WeightVersion

REFUSED_TOKEN = 666
"""A prompt that holds it is refused."""
ENDLESS_TOKEN = 667
"""A prompt that holds it is never finished."""


class _Request:
    def __init__(self, prompt: Int32Array, sampling: Sampling, seed: int) -> None:
        self.endless = ENDLESS_TOKEN in prompt
        self.sampling = sampling
        self.seed = seed
        self.versions: list[WeightVersion] = []
        """Of each token."""


class ScriptedEngine:
    """Token t of a request is seed + t, its log-prob -t; it ends after max_tokens."""

    def __init__(self, *, slots: int = 8) -> None:
        self.served: WeightVersion | None = None
        self.slots = slots
        self.requests: dict[str, _Request] = {}
        self.steps: list[set[str]] = []
        """What ran in each step, by request."""
        self.fault: Exception | None = None
        """Raised by the next updates."""
        self.closed = False

    def add(self, request_id: str, *, tokens: Int32Array, sampling: Sampling, seed: int) -> None:
        assert self.served is not None
        assert request_id not in self.requests
        if REFUSED_TOKEN in tokens:
            raise ValueError("longer than the context")
        self.requests[request_id] = _Request(tokens, sampling, seed)

    def abort(self, request_ids: Iterable[str]) -> int:
        forgotten = [self.requests.pop(request_id) for request_id in request_ids if request_id in self.requests]
        return sum(len(request.versions) for request in forgotten)

    def step(self) -> list[Finished]:
        running = dict(list(self.requests.items())[: self.slots])
        self.steps.append(set(running))
        finished = []
        for request_id, request in running.items():
            assert self.served is not None
            request.versions.append(self.served)
            if len(request.versions) == request.sampling.max_tokens and not request.endless:
                del self.requests[request_id]
                finished.append(_finished(request_id, request))
        return finished

    def running(self) -> int:
        return len(self.requests)

    def free_slots(self) -> int:
        return max(0, self.slots - len(self.requests))

    def expected_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {}

    def update(self, fetched: FetchedVersion) -> None:
        if self.fault is not None:
            raise self.fault
        if fetched.manifest.model_hash == "another":
            raise WeightsRefused(f"version {fetched.manifest.version} does not fit")
        self.served = fetched.manifest.version

    def close(self) -> None:
        self.closed = True


def _finished(request_id: str, request: _Request) -> Finished:
    length = len(request.versions)
    starts = [t for t in range(length) if t == 0 or request.versions[t] != request.versions[t - 1]]
    spans = [
        VersionSpan(
            lineage=request.versions[start].lineage,
            epoch=request.versions[start].epoch,
            number=request.versions[start].number,
            start=start,
            end=end,
        )
        for start, end in zip(starts, [*starts[1:], length], strict=True)
    ]
    return Finished(
        request_id=request_id,
        tokens=np.arange(request.seed, request.seed + length, dtype=np.int32),
        logprobs=-np.arange(length, dtype=np.float32),
        spans=tuple(spans),
        finish_reason="length",
    )


class ScriptedSource:
    """Versions 0/1/number; `faults` are raised by the fetch of a number."""

    def __init__(self, number: int | None = 0) -> None:
        self.number = number
        self.faults: dict[int, Exception] = {}
        self.unfit: set[int] = set()
        self.fetches: list[int] = []
        self.looks = 0

    def newest(self) -> WeightVersion | None:
        self.looks += 1
        return None if self.number is None else WeightVersion(0, 1, self.number)

    def before(self, version: WeightVersion) -> list[WeightVersion]:
        return [WeightVersion(0, 1, number) for number in reversed(range(version.number))]

    def fetch(self, version: WeightVersion) -> FetchedVersion:
        self.fetches.append(version.number)
        if version.number in self.faults:
            raise self.faults[version.number]
        manifest = Manifest(
            kind="full",
            version=version,
            base="",
            publication_id="p",
            step=version.number,
            model_hash="another" if version.number in self.unfit else "ours",
            tokenizer_hash="t",
            aliases={},
            tensors=(),
            blobs=(),
        )
        return FetchedVersion(manifest=manifest, blobs={})
