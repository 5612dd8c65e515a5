"""Which sequences share a row, and which rank gets which rows. Integers in, integers out."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class MiniBatch:
    """The work of one optimizer update."""

    rows: tuple[tuple[tuple[int, ...], ...], ...]
    """rows[rank][m] = the sequences of micro-batch m of that rank; equally many rows on every rank, () where empty."""


def cut_groups(group_index: Sequence[int], *, mini_batches: int) -> list[list[int]]:
    """Sequences of each mini-batch: whole groups in their order, in nearly equal shares; the first ones get the rest.

    Depends on nothing but the batch, so an update sees the same sequences at every world size. Mini-batches beyond
    the number of groups come out empty.
    """
    groups = sorted(set(group_index))
    share, rest = divmod(len(groups), mini_batches)
    owner: dict[int, int] = {}
    for k in range(mini_batches):
        for group in groups[k * share + min(k, rest) : (k + 1) * share + min(k + 1, rest)]:
            owner[group] = k
    cut: list[list[int]] = [[] for _ in range(mini_batches)]
    for i, group in enumerate(group_index):
        cut[owner[group]].append(i)
    return cut


def plan(sequences: Sequence[int], lengths: Sequence[int], *, world_size: int, capacity: int) -> MiniBatch:
    """Share the sequences among ranks by tokens, then pack each rank's into rows of at most `capacity` tokens.

    Longest first to the rank with the fewest tokens, then first-fit-decreasing; ties go to the lower number, so the
    plan is a function of its arguments. A sequence above `capacity` gets a row of its own. Ranks with fewer rows
    than the others get empty ones: under ZeRO-3 every rank must call forward equally often.
    """
    longest_first = sorted(sequences, key=lambda i: (-lengths[i], i))
    shares: list[list[int]] = [[] for _ in range(world_size)]
    tokens = [0] * world_size
    for i in longest_first:
        rank = tokens.index(min(tokens))
        shares[rank].append(i)
        tokens[rank] += lengths[i]
    packed = [_first_fit(share, lengths, capacity=capacity) for share in shares]
    most = max(len(rows) for rows in packed)
    return MiniBatch(rows=tuple((*rows, *[()] * (most - len(rows))) for rows in packed))


def _first_fit(longest_first: Sequence[int], lengths: Sequence[int], *, capacity: int) -> list[tuple[int, ...]]:
    rows: list[list[int]] = []
    free: list[int] = []
    for i in longest_first:
        fitting = next((k for k, room in enumerate(free) if lengths[i] <= room), None)
        if fitting is None:
            rows.append([i])
            free.append(capacity - lengths[i])
        else:
            rows[fitting].append(i)
            free[fitting] -= lengths[i]
    return [tuple(sorted(row)) for row in rows]
