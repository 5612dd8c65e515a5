"""The pacing rule: how many groups may be issued, and which ones make the next batch. Pure, and the whole of it.

    B  groups in a batch                      eta  staleness allowed, in steps
    k  a batch: trained at step k, from 1     n    a version: the weights after n batches (0 = before step 1)
    v  batches committed in this lineage      p    newest committed version
    K  batches between published versions

Batch k is trained by the policy after k - 1 steps, so a token of version n in it is (k - 1) - n steps stale.

1. Issue while live < (eta + p + 1 - v) * B, live = issued and not settled (and while live < capacity). Stamp the prompt
   min_version = p: an engine starts it only once it serves p or newer.
2. A batch is the B lowest unsettled sequences: strictly issue order, whatever arrived first.
3. K <= eta + 1 and capacity >= (eta + 1) * B.

No token is staler than eta. When a group is issued, fewer than (eta + p + 1 - v) * B groups are unsettled and all of
them are before it; those issued later come after it. Settling others without training only moves it forward, so it is
in one of the next eta + p + 1 - v batches: in batch k <= v + (eta + p + 1 - v) = eta + p + 1 at the latest. Its tokens
have versions n >= p. Hence (k - 1) - n <= eta + p - p = eta. Nothing of this depends on who is slow, dies, discards or
serves which version. What is read late does no harm, as long as live and v come from one snapshot: an older p lowers
the window, and each commit that the snapshot missed lowers live by at least the B that it takes from the window.

A dropped group leaves a place, which its next attempt takes before any new prompt does: `owed` counts as live until it is
issued, and then it is a group like any other, admitted under the same window. Capacity does not hold it up, since it
replaces what capacity had held.

No deadlock. Every live group has a deadline, so the head settles or arrives. Training needs no more than the committed
batches, and after them p >= v - (K - 1); then the window is (eta + p + 1 - v) * B >= (eta + 2 - K) * B >= B, so a whole
batch is always admitted, and capacity does not cut it below B.

Two rules that look as good, and violate the bound (the tests show both): counting trained steps in place of published
versions, since engines cannot serve what is not published; and letting a batch take whatever has arrived as long as
nothing expires in it, since more than B groups can expire at the same step.
"""

import heapq
from collections.abc import Sequence


def admissible(
    *, live: int, committed: int, published: int, batch_groups: int, max_staleness: int, capacity: int
) -> int:
    """How many groups may be issued now, >= 0; stamp each with min_version = published.

    `committed` is v and `published` is p of the rule; `live` and `committed` must come from one snapshot.
    """
    window = (max_staleness + published + 1 - committed) * batch_groups
    return max(0, min(window, capacity) - live)


def admissible_again(
    *, live: int, owed: int, committed: int, published: int, batch_groups: int, max_staleness: int
) -> int:
    """How many of the `owed` next attempts of dropped groups may be issued now; for new prompts pass `live + owed`."""
    window = (max_staleness + published + 1 - committed) * batch_groups
    return max(0, min(owed, window - live))


def next_batch(unsettled: Sequence[int], *, batch_groups: int) -> tuple[int, ...] | None:
    """The sequences of the next batch, ascending: the B lowest unsettled ones; None while there are fewer."""
    if len(unsettled) < batch_groups:
        return None
    return tuple(heapq.nsmallest(batch_groups, unsettled))
