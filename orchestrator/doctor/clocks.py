"""Clocks that differ: leases and decisions do not read them, but logs are read side by side, and buckets sign with time."""

from orchestrator.doctor.finding import Finding, error, ok, warning

APART_S = 1.0
"""Above it, lines of two machines' logs no longer stand in the order in which things happened."""
REFUSED_S = 300.0
"""Towards the 15 min at which S3 refuses a request as too skewed (RequestTimeTooSkewed)."""
REMEDY = "run a time service there (chrony, systemd-timesyncd): timedatectl set-ntp true"


def skew_finding(check: str, ahead_s: float, *, within_s: float) -> Finding:
    """`ahead_s`: of the other clock before ours; known only to `within_s`, half of what asking for it took."""
    certain = max(0.0, abs(ahead_s) - within_s)
    found = f"{abs(ahead_s):.2f} s {'ahead' if ahead_s >= 0 else 'behind'}, to within {within_s:.2f} s"
    if certain > REFUSED_S:
        return error(check, found, "buckets refuse requests signed at another time, certificates seem invalid", REMEDY)
    if certain > APART_S:
        return warning(check, found, "logs and timelines of several machines cannot be read side by side", REMEDY)
    return ok(check, found)
