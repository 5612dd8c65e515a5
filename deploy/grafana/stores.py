"""The stores between the clusters: groups in flight, Redis, versions of the weights, checkpoints, disks."""

from typing import Any

from grafana_foundation_sdk.builders.dashboard import Dashboard

from deploy.grafana import look
from deploy.grafana.layout import Section, page
from deploy.grafana.panels import bars, counts, lines, should_be_none, should_be_so, stat
from deploy.grafana.promql import largest, mean, of, or_zero, quantile, rate, steady, total

STREAMS = {"prompts": look.BLUE, "completions": look.VIOLET, "experience": look.GREEN, "quarantine": look.RED}
USED, LIMIT = "headrace_redis_memory_bytes", "headrace_redis_memory_limit_bytes"
DISK_FREE, DISK = "headrace_run_disk_free_bytes", "headrace_run_disk_bytes"


def stores() -> Dashboard:
    sections = [
        Section(title="At a glance", panels=_glance()),
        Section(title="Groups in flight", panels=_groups()),
        Section(title="Leases and second deliveries", panels=_leases()),
        Section(title="Redis", panels=_redis()),
        Section(title="Versions of the weights", panels=_weights()),
        Section(title="Checkpoints and disks", panels=_disks()),
        Section(title="Object store", panels=_bucket(), closed=True),
    ]
    return page("stores", "Groups in flight, Redis, versions of the weights, checkpoints and disks.", sections)


def _glance() -> list[Any]:
    live = largest("headrace_experience_live_groups")
    full = f"{live} / {largest('headrace_experience_capacity_groups')}"
    free = f"min ({of(DISK_FREE)} / {of(DISK)})"
    corrupt = or_zero(total("headrace_weights_corrupt_versions_total"))
    return [
        stat("Groups live", live, unit="none"),
        stat("Room in use", full, unit="percentunit", decimals=0),
        should_be_so("Redis answers", f"min ({of('headrace_redis_up')})"),
        should_be_so("Log written", f"min ({of('headrace_redis_aof_write_ok')})"),
        stat("Redis memory", largest(USED), unit="bytes", decimals=1),
        stat("Free disk", free, unit="percentunit", decimals=0, limits=((0.1, look.INK),), below=look.RED),
        stat("Version", largest("headrace_weights_newest_version"), unit="none"),
        should_be_none("Corrupt", corrupt),
    ]


def _groups() -> list[Any]:
    depth = {"{{stream}}": f"max by (stream) ({steady('headrace_experience_depth_groups')})"}
    oldest = {"{{stream}}": largest("headrace_experience_oldest_seconds", by="stream")}
    live = {
        "live": largest("headrace_experience_live_groups"),
        "room": largest("headrace_experience_capacity_groups"),
    }
    settled = {"{{outcome}} {{reason}}": rate("headrace_experience_settled_groups_total", by="outcome, reason")}
    ahead = {
        "batches committed": largest("headrace_experience_committed_batches"),
        "steps trained": largest("headrace_run_step"),
    }
    issued = {
        "{{attempt}}": rate("headrace_run_issued_groups_total", by="attempt"),
        "passed over": rate("headrace_run_passed_over_prompts_total"),
    }
    return [
        counts("Groups in each stream", depth, colours=STREAMS),
        lines("Oldest entry of each stream", oldest, unit="s", low=0, colours=STREAMS),
        counts("Groups live, and room", live),
        lines("How groups are settled", settled, unit="suffix: groups/s", low=0),
        counts("Batches and steps", ahead),
        lines("Prompts issued", issued, unit="suffix: groups/s", low=0),
    ]


def _leases() -> list[Any]:
    held = {"{{stage}}": f"max by (stage) ({steady('headrace_experience_leases')})"}
    oldest = {"{{stage}}": largest("headrace_experience_oldest_lease_seconds", by="stage")}
    again = {
        "delivered again": or_zero(total("headrace_experience_redeliveries_total")),
        "output refused": or_zero(total("headrace_experience_lost_leases_total")),
        "quarantined": or_zero(total("headrace_experience_quarantined_total")),
    }
    silent = {"{{stage}}, p99": quantile(0.99, "headrace_experience_redelivery_seconds", by="stage")}
    return [
        counts("Leases held", held, colours=STREAMS),
        lines("Oldest lease since its renewal", oldest, unit="s", low=0, colours=STREAMS),
        counts("Work done twice or set aside", again),
        lines("Silence before a second delivery", silent, unit="s", low=0, width=12),
        lines(
            "Calls repeated",
            {"{{worker}}": rate("headrace_experience_retries_total", by="worker")},
            unit="cps",
            low=0,
            width=12,
        ),
    ]


def _redis() -> list[Any]:
    memory = {"used": largest(USED), "limit, 0 = none": largest(LIMIT)}
    log = {"size": largest("headrace_redis_aof_bytes")}
    late = {"put off": largest("headrace_redis_aof_delayed_fsyncs")}
    health = {"append-only log on": largest("headrace_redis_aof_enabled"), "answers": largest("headrace_redis_up")}
    return [
        lines("Memory of Redis", memory, unit="bytes", low=0),
        lines("Its append-only log", log, unit="bytes", low=0),
        counts("Syncs put off", late, limits=look.ANY),
        counts("Connections", {"clients": largest("headrace_redis_clients")}, width=12),
        counts("Up, and keeping a log", health, width=12),
    ]


def _weights() -> list[Any]:
    writing = {
        "writing a shard": mean("headrace_weights_publish_seconds"),
        "until the manifest": mean("headrace_weights_commit_seconds"),
        "fetching and verifying": mean("headrace_weights_fetch_seconds"),
    }
    traffic = {
        "written": rate("headrace_weights_published_bytes_total"),
        "fetched": rate("headrace_weights_fetched_bytes_total"),
    }
    deleted = {"deleted": of("headrace_weights_deleted_versions_total", worker="rank-0")}
    return [
        lines("Time of a version", writing, unit="s", low=0),
        lines("Bytes of versions", traffic, unit="binBps", low=0),
        counts("Versions deleted by retention", deleted),
    ]


def _disks() -> list[Any]:
    checkpoint = {
        "writing, p99": quantile(0.99, "headrace_train_checkpoint_seconds"),
        "training waits": mean("headrace_train_checkpoint_stall_seconds"),
    }
    free = {"{{path}}": f"min by (path) ({of(DISK_FREE)})"}
    full = {"{{path}}": f"1 - min by (path) ({of(DISK_FREE)} / {of(DISK)})"}
    return [
        lines("Time of a checkpoint", checkpoint, unit="s", low=0),
        lines("Free on each disk", free, unit="bytes", low=0),
        bars("Disks in use", full, unit="percentunit", high=1, limits=look.FULL, below=look.GREEN),
    ]


def _bucket() -> list[Any]:
    retried = {"{{action}}": rate("headrace_store_retried_requests_total", by="action")}
    return [lines("Requests sent again", retried, unit="cps", low=0, width=24)]
