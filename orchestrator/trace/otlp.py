"""Sends traces to a collector of OpenTelemetry, by OTLP over HTTP."""

import hashlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from orchestrator.errors import DeliveryFailed
from orchestrator.trace.span import Attribute, Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

_TIMEOUT_S = 10.0
"""For the collector's answer: a person waits."""
_PATH = "/v1/traces"


def send(traces: Sequence[Trace], url: str) -> int:
    """How many spans the collector took: those whose times are known, below one for the whole of each group.

    The ids are a function of the group's, so a trace that is sent again replaces itself. DeliveryFailed; ValueError: `url`
    is none, or the extra `otel` is not installed.
    """
    where = endpoint(url)
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.trace.export import SpanExportResult
    except ImportError:
        raise ValueError("--otlp: OpenTelemetry is not installed; remedy: pip install 'headrace[otel]'") from None
    spans = [span for trace in traces for span in _spans(trace)]
    exporter = OTLPSpanExporter(endpoint=where, timeout=_TIMEOUT_S)
    try:
        result = exporter.export(spans)
    finally:
        exporter.shutdown()
    if result is not SpanExportResult.SUCCESS:
        host = urlsplit(where).hostname
        raise DeliveryFailed(
            f"--otlp: the collector at {host} did not take {len(spans)} spans; remedy: check URL and collector"
        )
    return len(spans)


def endpoint(url: str) -> str:
    """As OTEL_EXPORTER_OTLP_ENDPOINT has it: a base, to which the path of traces is added unless it has one."""
    try:
        parts = urlsplit(url)
    except ValueError:  # half an IPv6 address, say
        parts = urlsplit("")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("--otlp: is no address of a collector; write http://HOST:4318")
    return url if parts.path.rstrip("/") else urlunsplit(parts._replace(path=_PATH))


def _spans(trace: Trace) -> Iterator["ReadableSpan"]:
    """The whole, then its parts."""
    if trace.start is None or trace.end is None:
        return
    whole: dict[str, Attribute] = {
        "headrace.prompt_id": trace.prompt_id,
        "headrace.attempt": trace.attempt,
        "headrace.state": trace.state,
        **({} if trace.step is None else {"headrace.step": trace.step}),
    }
    name = f"group {trace.sequence}"
    yield _readable(trace, 0, name=name, worker="", start=trace.start, end=trace.end, attributes=whole)
    for index, span in enumerate(trace.spans, start=1):
        if span.start is not None:
            attributes: dict[str, Attribute] = {f"headrace.{key}": value for key, value in span.attributes.items()}
            attributes["headrace.waits"] = span.waits
            end = span.start + span.seconds
            yield _readable(
                trace, index, name=span.name, worker=span.worker, start=span.start, end=end, attributes=attributes
            )


def _readable(
    trace: Trace,
    index: int,
    *,
    name: str,
    worker: str,
    start: float,
    end: float,
    attributes: dict[str, Attribute],
) -> "ReadableSpan":
    """One span as the exporter takes it; number 0 is the root. Each role is a service of its own."""
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.trace import SpanContext, TraceFlags

    trace_id, sampled = _number(trace.group_id, size=16), TraceFlags(TraceFlags.SAMPLED)
    context, root = (
        SpanContext(trace_id, _number(f"{trace.group_id}#{which}", size=8), is_remote=False, trace_flags=sampled)
        for which in (index, 0)
    )
    role = worker.partition("-")[0]
    service = {"service.name": f"headrace-{role}" if role else "headrace", "service.instance.id": worker or "run"}
    return ReadableSpan(
        name,
        context=context,
        parent=root if index else None,
        resource=Resource(service),
        attributes={"headrace.group": trace.group_id, **attributes},
        start_time=round(start * 1e9),
        end_time=round(end * 1e9),
    )


def _number(text: str, *, size: int) -> int:
    """Never 0, which stands for no id."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1
