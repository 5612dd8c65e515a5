"""Which sequences share a forward pass: pure, so that it can be tested without a model."""

from collections.abc import Sequence


def micro_batches(lengths: Sequence[int], *, limit: int) -> list[list[int]]:
    """Split sequences of these lengths into batches of at most `limit` tokens, padding included.

    Longest first, so that neighbours are alike and padding is small, and so that the largest allocation comes first.
    A sequence longer than the limit stands alone. Returns indices into `lengths`; every index once.
    """
    batches: list[list[int]] = []
    room = 0
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if not room:
            batches.append([])
            room = max(1, limit // lengths[index])
        batches[-1].append(index)
        room -= 1
    return batches
