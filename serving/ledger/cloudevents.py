"""Records as CloudEvents 1.0, two for each prediction, as KServe's logger makes them.

    org.kubeflow.serving.inference.request     what was asked: {"id", "inputs": […]}
    org.kubeflow.serving.inference.response    what was answered: {"id", "model_name", "model_version",
                                               "outputs": […]}, or {"id", "error": CODE}

Both have one `id`. It is the prediction id, and the request id is an extension, because a request id is
the caller's word, may be missing and may come twice. Refused and failed requests that were admitted
have both events, too. An outcome is one event `serving.outcome.reported`, a declared loss one
`serving.loss.declared`. Extensions, beyond those of KServe (`inferenceservicename`, `component`,
`endpoint`): fate, modelversion, modeldigest, batchid, principal, requestid, traceid, shadowof,
subjecttag; those that would be empty are left out.

Structured mode is one JSON object. Binary mode, for Kafka: attributes are headers `ce_…`, the data
is the message.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from serving.core.outcomes import Outcome
from serving.core.predictions import Fate, PredictionRecord
from serving.predictionlog.losses import Loss
from serving.predictionlog.reading.rendering import tensor_json, time_text

CONTENT_TYPE: Final = "application/json"
STRUCTURED: Final = "application/cloudevents+json"
REQUEST: Final = "org.kubeflow.serving.inference.request"
RESPONSE: Final = "org.kubeflow.serving.inference.response"
OUTCOME: Final = "serving.outcome.reported"
LOSS: Final = "serving.loss.declared"

LedgerEvent = PredictionRecord | Outcome | Loss

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class CloudEvent:
    """One event. attributes: all but data, as text. key: the prediction that it is about."""

    attributes: dict[str, str]
    data: dict[str, Any]
    key: str

    def structured(self) -> bytes:
        """One JSON object."""
        return _encode({**self.attributes, "data": self.data})

    def headers(self) -> list[tuple[str, str | bytes | None]]:
        """Of a Kafka message in binary mode."""
        found: list[tuple[str, str | bytes | None]] = [
            (f"ce_{name}", value.encode())
            for name, value in self.attributes.items()
            if name != "datacontenttype"
        ]
        return [*found, ("content-type", CONTENT_TYPE.encode())]

    def body(self) -> bytes:
        """Of a message in binary mode."""
        return _encode(self.data)


def cloudevents(event: LedgerEvent, *, source: str) -> Iterator[CloudEvent]:
    """The events of one record. source: names the installation."""
    if isinstance(event, PredictionRecord):
        yield from _of_prediction(event, source)
    elif isinstance(event, Outcome):
        yield _of_outcome(event, source)
    else:
        yield _of_loss(event, source)


def _of_prediction(record: PredictionRecord, source: str) -> Iterator[CloudEvent]:
    inputs = [tensor_json(each, full=True) for each in record.inputs]
    request = {"id": record.prediction_id, "inputs": inputs}
    response: dict[str, Any] = {
        "id": record.prediction_id,
        "model_name": record.model,
        "model_version": record.version,
    }
    if record.fate is Fate.OK:
        response["outputs"] = [tensor_json(each, full=True) for each in record.outputs]
    else:
        response["error"] = record.reason
    for kind, data in ((REQUEST, request), (RESPONSE, response)):
        attributes = {
            **_core(kind, record.prediction_id, source=source, time_ns=record.time_ns),
            **_extensions(record),
        }
        yield CloudEvent(attributes, data, record.prediction_id)


def _core(kind: str, name: str, *, source: str, time_ns: int) -> dict[str, str]:
    return {
        "specversion": "1.0",
        "type": kind,
        "id": name,
        "source": source,
        "time": time_text(time_ns),
        "datacontenttype": CONTENT_TYPE,
    }


def _extensions(record: PredictionRecord) -> dict[str, str]:
    found = {
        "inferenceservicename": record.model,
        "component": "predictor",
        "endpoint": "shadow" if record.shadow_of else "part" if record.part_of else "default",
        "fate": record.fate.name.lower(),
        "modelversion": record.version,
        "modeldigest": record.digest,
        "batchid": str(record.batch_id) if record.batch_id else "",
        "principal": record.principal,
        "requestid": record.request_id,
        "traceid": record.trace_id,
        "shadowof": record.shadow_of,
        "partof": record.part_of,
        "chosen": "true" if record.chosen else "",
        "cached": "true" if record.cached else "",
        "subjecttag": record.subject,
    }
    return {name: value for name, value in found.items() if value}


def _of_outcome(outcome: Outcome, source: str) -> CloudEvent:
    name = f"{outcome.prediction_id}/{outcome.row}/{outcome.name}/{outcome.revision}"
    attributes = _core(OUTCOME, name, source=source, time_ns=outcome.reported_ns)
    attributes["inferenceservicename"] = outcome.model
    data = {
        "prediction_id": outcome.prediction_id,
        "row": outcome.row,
        "name": outcome.name,
        "value": outcome.value,
        "observed": time_text(outcome.observed_ns),
        "revision": outcome.revision,
    }
    return CloudEvent(attributes, data, outcome.prediction_id)


def _of_loss(loss: Loss, source: str) -> CloudEvent:
    name = f"{loss.log_id}/{loss.model}/{loss.version}/{loss.total}"
    attributes = _core(LOSS, name, source=source, time_ns=loss.declared_ns)
    attributes["inferenceservicename"] = loss.model
    data = {
        "count": loss.count,
        "since": time_text(loss.since_ns),
        "until": time_text(loss.until_ns),
        "reason": loss.reason,
        "modelversion": loss.version,
    }
    return CloudEvent(attributes, data, f"{loss.log_id}/{loss.model}")
