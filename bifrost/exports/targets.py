"""Which target serves a configured sink, and in which format it is told."""

from __future__ import annotations

from bifrost.config.exports import (
    DatadogExport,
    ElasticExport,
    FileExport,
    OtlpExport,
    S3Export,
    Sink,
    SplunkExport,
    SyslogExport,
    WebhookExport,
)
from bifrost.exports.answers import Target
from bifrost.exports.datadog import Datadog
from bifrost.exports.elastic import Elastic
from bifrost.exports.formats import guarded
from bifrost.exports.hook import Hook
from bifrost.exports.jsonl import JsonLines
from bifrost.exports.otlp import Otlp
from bifrost.exports.s3 import S3
from bifrost.exports.splunk import Splunk
from bifrost.exports.syslog import Syslog


def target_of(sink: Sink) -> Target:
    """The target of a sink; make it inside an event loop."""
    document = guarded(sink.format)
    match sink:
        case ElasticExport():
            return Elastic(sink, document)
        case SplunkExport():
            return Splunk(sink, document)
        case DatadogExport():
            return Datadog(sink, document)
        case S3Export():
            return S3(sink, document)
        case WebhookExport():
            return Hook(sink, document)
        case SyslogExport():
            return Syslog(sink, document)
        case OtlpExport():
            return Otlp(sink, document)
        case FileExport():
            return JsonLines(sink, document)
