"""What botocore says of Converse: whether a request is of its shape, what a stream's frames are."""

from __future__ import annotations

from typing import Any

from botocore.eventstream import EventStream
from botocore.loaders import Loader
from botocore.model import ServiceModel
from botocore.parsers import EventStreamJSONParser
from botocore.validate import ParamValidator

from bifrost.mock.converse_rules import check

Json = dict[str, Any]
_RUNTIME = ServiceModel(Loader().load_service_model("bedrock-runtime", "service-2"))


def checked(body: Json, model: str = "us.amazon.nova-pro-v1:0", count: bool = False) -> Json:
    """The same request, if both the service model and the service's rules take it."""
    operation = _RUNTIME.operation_model("CountTokens" if count else "Converse")
    report = ParamValidator().validate({**body, "modelId": model}, operation.input_shape)
    assert not report.has_errors(), report.generate_report()
    check(body["input"]["converse"] if count else body, model)
    return body


class _Raw:
    """A body as botocore reads it."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def stream(self) -> Any:
        yield self._data

    def close(self) -> None:
        pass


def events(data: bytes) -> list[Json]:
    """The events of a stream as boto3's clients get them; its exceptions are raised."""
    shape = _RUNTIME.operation_model("ConverseStream").get_event_stream_output()
    stream = EventStream(_Raw(data), shape, EventStreamJSONParser(), "ConverseStream")
    return list(stream)
