"""JSON schemas of what the inference port reads and says, by name.

Written down and not derived: they are a promise to clients. Tests hold the product against them.
"""

from collections.abc import Mapping
from typing import Any, Final

from serving.edge.problems import STATUS

Schema = dict[str, Any]


def _object(required: Mapping[str, Schema], **optional: Schema) -> Schema:
    return {
        "type": "object",
        "required": list(required),
        "properties": {**required, **optional},
    }


def _array(items: Schema) -> Schema:
    return {"type": "array", "items": items}


_TEXT: Final[Schema] = {"type": "string"}
_COUNT: Final[Schema] = {"type": "integer", "minimum": 0}
_FLAG: Final[Schema] = {"type": "boolean"}
_DATATYPE: Final[Schema] = {
    "type": "string",
    "enum": [
        *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
        *("FP16", "FP32", "FP64", "BF16", "BYTES"),
    ],
}
_SHAPE: Final = _array(_COUNT)
_DECLARED_SHAPE: Final = _array({"type": "integer", "minimum": -1})
_PARAMETERS: Final[Schema] = {
    "type": "object",
    "additionalProperties": {"type": ["boolean", "integer", "number", "string", "null"]},
}
_DATA: Final[Schema] = {
    "type": "array",
    "description": "Flat in row-major order, or nested; absent where the tensor is binary.",
}
_DECLARED: Final = _object({"name": _TEXT, "datatype": _DATATYPE, "shape": _DECLARED_SHAPE})
_CONFIGURED: Final = _object(
    {"name": _TEXT, "data_type": {"type": "string", "pattern": "^TYPE_"}, "dims": _DECLARED_SHAPE}
)
_TENSOR: Final = _object(
    {"name": _TEXT, "datatype": _DATATYPE, "shape": _SHAPE}, parameters=_PARAMETERS, data=_DATA
)
_DURATION: Final = _object({"count": _COUNT, "ns": _COUNT})
_BATCH_TIMES: Final = dict.fromkeys(("compute_input", "compute_infer", "compute_output"), _DURATION)

_TRUTH: Final[Schema] = {
    "type": ["string", "number", "boolean", "null"],
    "maxLength": 1024,
    "description": "null takes back what an earlier revision said.",
}
_TRUTH_NAME: Final[Schema] = {"type": "string", "minLength": 1, "maxLength": 128}
_UINT32: Final[Schema] = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
_REPORTED: Final[dict[str, Schema]] = {
    "row": _UINT32,
    "revision": _UINT32,
    "observed_at": {"type": "string", "format": "date-time"},
}
_PREDICTION_ID: Final[Schema] = {"type": "string", "pattern": "^[0-9a-f]{16}-[0-9a-f]{1,16}$"}
_OUTCOME: Final[Schema] = {
    "description": "One truth, or several of one row by name. Of several reports about the same "
    "prediction, row and name the highest revision counts, and of equals the first.",
    "oneOf": [
        _object({"prediction_id": _PREDICTION_ID, **truth}, **_REPORTED)
        | {"additionalProperties": False}
        for truth in (
            {"name": _TRUTH_NAME, "value": _TRUTH},
            {
                "values": {
                    "type": "object",
                    "minProperties": 1,
                    "propertyNames": _TRUTH_NAME,
                    "additionalProperties": _TRUTH,
                }
            },
        )
    ],
}

SCHEMAS: Final[dict[str, Schema]] = {
    "Problem": _object(
        {"error": _TEXT, "code": {"type": "string", "enum": list(STATUS)}, "request_id": _TEXT}
    ),
    "Live": _object({"live": _FLAG}),
    "Ready": _object({"live": _FLAG, "ready": _FLAG}),
    "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _array(_TEXT)}),
    "ModelList": _object({"models": _array(_TEXT)}),
    "ModelReady": _object({"name": _TEXT, "ready": _FLAG}),
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": _array(_TEXT),
            "platform": _TEXT,
            "inputs": _array(_DECLARED),
            "outputs": _array(_DECLARED),
        },
        parameters=_PARAMETERS,
    ),
    "ModelConfiguration": _object(
        {
            "name": _TEXT,
            "platform": _TEXT,
            "backend": _TEXT,
            "max_batch_size": _COUNT,
            "input": _array(_CONFIGURED),
            "output": _array(_CONFIGURED),
        }
    ),
    "ModelStatistics": _object(
        {
            "model_stats": _array(
                _object(
                    {
                        "name": _TEXT,
                        "version": _TEXT,
                        "last_inference": _COUNT,
                        "inference_count": _COUNT,
                        "execution_count": _COUNT,
                        "inference_stats": _object(
                            {"success": _DURATION, "fail": _DURATION, "queue": _DURATION}
                            | _BATCH_TIMES
                            | {"cache_hit": _DURATION, "cache_miss": _DURATION}
                        ),
                        "batch_stats": _array(_object({"batch_size": _COUNT} | _BATCH_TIMES)),
                    }
                )
            )
        }
    ),
    "RepositoryIndex": _array(
        _object(
            {
                "name": _TEXT,
                "version": _TEXT,
                "state": {"type": "string", "enum": ["READY", "UNAVAILABLE"]},
                "reason": _TEXT,
            }
        )
    ),
    "RepositoryIndexRequest": _object({}, ready=_FLAG),
    "InferenceRequest": _object(
        {"inputs": {**_array(_TENSOR), "minItems": 1}},
        id={"type": "string", "maxLength": 256},
        parameters=_PARAMETERS,
        outputs=_array(_object({"name": _TEXT}, parameters=_PARAMETERS)),
    ),
    "InferenceAnswer": _object(
        {"model_name": _TEXT, "model_version": _TEXT, "outputs": _array(_TENSOR)}, id=_TEXT
    ),
    "Outcomes": {
        "oneOf": [_OUTCOME, {**_array(_OUTCOME), "minItems": 1, "maxItems": 1000}],
    },
    "OutcomesRecorded": _object({"recorded": _COUNT}),
    "Description": {"type": "object"},
}
