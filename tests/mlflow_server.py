"""A small server that answers as MLflow 3.17.2 answered when it was asked the same.

The answers were recorded from `mlflow server` with one ONNX model logged by `mlflow.onnx.log_model`.
"""

import json
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, unquote, urlsplit

API = "/api/2.0/mlflow/"
PLACE = "/api/2.0/mlflow-artifacts/artifacts/"
ID = "m-a84d497c7cd34adda12d93df1074871b"
RUN = "97a1afad314d45a1853d4493af21090d"
FOLDER = f"0/models/{ID}/artifacts"

MLMODEL = """\
artifact_path: mlflow-artifacts:/0/models/m-a84d497c7cd34adda12d93df1074871b/artifacts
flavors:
  onnx:
    code: null
    data: model.onnx
    onnx_version: 1.23.2
  python_function:
    loader_module: mlflow.onnx
mlflow_version: 3.17.2
signature:
  inputs: '[{"name": "x", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape":
    [-1, 2]}}]'
  outputs: '[{"name": "y", "type": "tensor", "tensor-spec": {"dtype": "float32", "shape":
    [-1, 2]}}]'
  params: null
"""


def version(number: str) -> dict[str, Any]:
    return {
        "name": "doubler",
        "version": number,
        "creation_timestamp": 1795391141777,
        "last_updated_timestamp": 1795391141777,
        "current_stage": "None",
        "description": "",
        "source": f"models:/{ID}",
        "run_id": RUN,
        "status": "READY",
        "run_link": "",
    }


MODEL = {
    "name": "doubler",
    "creation_timestamp": 1795391141746,
    "last_updated_timestamp": 1795391141921,
    "description": "doubles",
    "latest_versions": [version("1")],
    "tags": [{"key": "area", "value": "demo"}],
    "aliases": [{"alias": "champion", "version": "1"}],
}

RUN_ANSWER = {
    "run": {
        "info": {"run_id": RUN, "status": "FINISHED"},
        "data": {
            "metrics": [{"key": "accuracy", "value": 0.9, "timestamp": 1, "step": 0}],
            "params": [{"key": "trees", "value": "60"}],
            "tags": [{"key": "mlflow.source.git.commit", "value": "abc123"}],
        },
    }
}


class Mlflow(BaseHTTPRequestHandler):
    """The routes that are read. What tests change is in the class."""

    files: ClassVar[dict[str, bytes]] = {}
    versions: ClassVar[list[str]] = ["1"]
    place: ClassVar[str] = f"mlflow-artifacts:/{FOLDER}"

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        if parts.path.startswith(PLACE):
            name = unquote(parts.path.removeprefix(PLACE)).removeprefix(f"{FOLDER}/")
            content = self.files.get(name)
            self._send(200 if content is not None else 404, content or b"{}")
            return
        status, answer = self._answer(parts.path.removeprefix(API), query)
        self._send(status, json.dumps(answer).encode())

    def _answer(self, route: str, query: dict[str, str]) -> tuple[int, dict[str, Any]]:
        name = query.get("name", "doubler")
        if name != "doubler":
            message = f"Registered Model with name={name} not found"
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": message}
        if route == "registered-models/get":
            return 200, {"registered_model": MODEL}
        if route == "model-versions/search":
            listed = [version(number) for number in self.versions]
            page = int(query.get("page_token", "0"))
            more = {"next_page_token": str(page + 1)} if page + 1 < len(listed) else {}
            return 200, {"model_versions": listed[page : page + 1], **more}
        if route == "model-versions/get-download-uri":
            return 200, {"artifact_uri": self.place}
        assert route == "runs/get"
        return 200, RUN_ANSWER

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass
