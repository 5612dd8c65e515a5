"""What the generation worker asks of an inference engine, and what comes back."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

from experience.schema import FinishReason, Float32Array, Int32Array, Sampling, VersionSpan
from weightstore.fetch import FetchedVersion
from weightstore.manifest import WeightVersion


class WeightsRefused(ValueError):
    """The version does not fit the engine; found before the update began, so the old version still serves whole."""


class EngineLost(RuntimeError):
    """The engine failed with its weights half replaced: there is no way back, so its process must end."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """One request that has ended. L = response tokens, the stop token included."""

    request_id: str
    tokens: Int32Array
    """[L]"""
    logprobs: Float32Array
    """[L] log-prob of each sampled token, nats, after temperature."""
    spans: tuple[VersionSpan, ...]
    """Contiguous; together they cover [0, L)."""
    finish_reason: FinishReason


class Engine(Protocol):
    """Continuous batching: requests come and go between steps, and so do the weights.

    Used from one thread. A request is one sample; G samples of a prompt are G requests with seeds of their own.
    """

    served: WeightVersion | None
    """What the next token is sampled from; None until the first update."""

    def add(self, request_id: str, *, tokens: Int32Array, sampling: Sampling, seed: int) -> None:
        """Queue a request. ValueError: the prompt cannot be answered (empty, unknown tokens, no room to respond)."""

    def abort(self, request_ids: Iterable[str]) -> int:
        """Forget these requests; unknown and finished ones are ignored. Tokens that were sampled for them, in all."""

    def step(self) -> list[Finished]:
        """Sample at most one token for every running request; those that ended now."""

    def running(self) -> int:
        """Requests added, not finished, not aborted."""

    def free_slots(self) -> int:
        """Requests that can be added and run at once."""

    def expected_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """{name: shape} of the tensors that a version must have, Hugging Face names, tied ones once."""

    def update(self, fetched: FetchedVersion) -> None:
        """Serve these weights from the next step on; running requests go on, their older KV entries stay.

        WeightsRefused: nothing has changed. OSError: nothing has changed, and another try may succeed. EngineLost: the
        process must end.
        """

    def close(self) -> None: ...
