"""What a crash left behind, decided from what was found. Pure.

    issued  =  settled and recorded by the ledger  +  settled, unrecorded  +  unsettled
    unsettled  =  present (its entry stands in a stream)  +  lost (it stands nowhere: the server lost it)

First `restore` brings the buffer up to the ledger, so that `unsettled` holds the record's open issues as well. Then a
lost group is issued anew as the next attempt, and after that settled as lost: a death in between leaves it lost, and
`reissues` finds that its next attempt exists.
"""

from collections.abc import Iterable, Set

from experience.schema import BatchRecord, Issue, Settlement


def lost_issues(unsettled: Iterable[Issue], *, present: Set[int]) -> tuple[Issue, ...]:
    """The unsettled issues without an entry, by sequence: to be issued anew, then settled as lost."""
    return tuple(sorted((issue for issue in unsettled if issue.sequence not in present), key=lambda i: i.sequence))


def reissues(lost: Iterable[Issue], *, unsettled: Iterable[Issue], settled: Iterable[Settlement]) -> tuple[Issue, ...]:
    """Those of the lost whose next attempt was not issued yet, in the same order."""
    known = {(issue.prompt_id, issue.attempt) for issue in unsettled}
    known |= {(settlement.prompt_id, settlement.attempt) for settlement in settled}
    return tuple(issue for issue in lost if (issue.prompt_id, issue.attempt + 1) not in known)


def owed_attempts(*, unsettled: Iterable[Issue], settled: Iterable[Settlement]) -> tuple[Issue, ...]:
    """The dropped groups whose next attempt was not issued yet, by sequence.

    `unsettled` must be read before `settled`: a next attempt that is settled in between is then in one of them at least.
    """
    ends = tuple(settled)
    dropped = [
        Issue(sequence=s.sequence, prompt_id=s.prompt_id, attempt=s.attempt) for s in ends if s.outcome == "dropped"
    ]
    return reissues(sorted(dropped, key=lambda i: i.sequence), unsettled=unsettled, settled=ends)


def check_restored(
    record: BatchRecord | None, *, unsettled: Iterable[Issue], settled: Iterable[Settlement], next_sequence: int
) -> None:
    """Refuse a buffer that does not continue the ledger: some issued sequence would have no end.

    ValueError names the first sequence that is neither unsettled, nor settled, nor recorded by a batch.
    """
    recorded_below = record.next_sequence if record else 0
    still_open = {issue.sequence for issue in record.open} if record else set()
    known = {issue.sequence for issue in unsettled} | {settlement.sequence for settlement in settled}
    expected = still_open | set(range(recorded_below, next_sequence))
    missing, unknown = sorted(expected - known), sorted(known - expected)
    if next_sequence < recorded_below:
        raise ValueError(f"the buffer's next_sequence = {next_sequence} is below the ledger's {recorded_below}: restore it first")  # fmt: skip
    if missing:
        raise ValueError(f"sequence {missing[0]} was issued, and neither the buffer nor the ledger knows its end: this buffer does not belong to this ledger")  # fmt: skip
    if unknown:
        raise ValueError(f"sequence {unknown[0]} is live in the buffer and recorded in the ledger: this buffer does not belong to this ledger")  # fmt: skip


def account_problem(record: BatchRecord, *, open_before: Set[int], issued_before: int) -> str:
    """Why a batch does not continue the one before, which left `open_before` open of `issued_before` issued; empty = it does.

    open before + issued since = settled now + open still. A server that lost acknowledged writes shows groups that were
    settled before, or hides some that were open: a batch made of that would train groups twice, or forget them.
    """
    settled = {settlement.sequence for settlement in record.settled}
    now = settled | {issue.sequence for issue in record.open}
    due = open_before | set(range(issued_before, record.next_sequence))
    if record.next_sequence < issued_before:
        return f"{record.next_sequence} groups were issued, {issued_before} before the last batch"
    if again := sorted(now - due):
        return f"sequence {again[0]} had its end in an earlier batch"
    if missing := sorted(due - now):
        return f"sequence {missing[0]} was issued, and is neither settled nor open"
    return ""
