"""What the sides of cases name, made measurable: servers under wrk, and the model alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
from grpc import RpcError  # type: ignore[import-untyped]  # it ships no types

from loadtests import grpc_load, wrk
from loadtests.cases import MODELS, Side
from loadtests.ceilings import RawModel
from loadtests.payloads import PAYLOADS, TOLERANCE, WrongAnswer, a_row, check
from loadtests.servers import Server
from loadtests.windows import Window

QUANTILES: Final = (50, 90, 99, 99.9, 100)


class HttpSubject:
    """A running server. oracles: raw models by M1, M2, for the check of answers."""

    def __init__(self, server: Server, *, oracles: Mapping[str, RawModel], folder: Path) -> None:
        self._server = server
        self._oracles = oracles
        self._folder = folder

    def check(self, side: Side) -> None:
        expected = None
        if self._server.numeric:
            (expected,) = self._oracles[side.model].run(a_row()[np.newaxis])
        url = self._server.url_of(MODELS[side.model])
        check(url, PAYLOADS[side.payload], headers=self._server.headers, expected=expected)

    def measure(self, side: Side, *, seconds: float) -> Window:
        payload = PAYLOADS[side.payload]
        load = wrk.Load(
            url=self._server.url_of(MODELS[side.model]),
            headers={**payload.headers, **self._server.headers},
            body=payload.body,
            connections=side.connections,
        )
        before_s = self._server.account.seconds()
        outcome = wrk.run(load, seconds=seconds, folder=self._folder)
        return _window(load.url, outcome, cpu_s=self._server.account.seconds() - before_s)


class GrpcSubject:
    """A running server's gRPC port. oracles: raw models by M1, M2, for the check of answers."""

    def __init__(self, server: Server, *, oracles: Mapping[str, RawModel]) -> None:
        self._server = server
        self._oracles = oracles

    def check(self, side: Side) -> None:
        address = self._server.grpc_address
        try:
            got = grpc_load.ask(self._load(side, seconds=0))
        except (RpcError, ValueError) as error:
            raise WrongAnswer(f"{address} answered no inference response: {error}") from error
        (expected,) = self._oracles[side.model].run(a_row()[np.newaxis])
        if self._server.numeric and not np.allclose(got, expected, rtol=0, atol=TOLERANCE):
            raise WrongAnswer(f"{address} answered {got}; a raw run gives {expected}")

    def measure(self, side: Side, *, seconds: float) -> Window:
        before_s = self._server.account.seconds()
        outcome = grpc_load.run(self._load(side, seconds=seconds))
        cpu_s = self._server.account.seconds() - before_s
        return _window(self._server.grpc_address, outcome, cpu_s=cpu_s)

    def _load(self, side: Side, *, seconds: float) -> grpc_load.GrpcLoad:
        return grpc_load.GrpcLoad(
            address=self._server.grpc_address,
            metadata=tuple((name.lower(), value) for name, value in self._server.headers.items()),
            message=grpc_load.message(MODELS[side.model], a_row()),
            callers=side.connections,
            seconds=seconds,
        )


def _window(place: str, outcome: wrk.Outcome, *, cpu_s: float) -> Window:
    """What a generator counted. cpu_s: of the server. Raises WrongAnswer when nothing was answered."""
    if not outcome.requests:
        raise WrongAnswer(f"{place} answered nothing in {outcome.seconds:g} s")
    return Window(
        requests=outcome.requests,
        seconds=outcome.seconds,
        p50_ms=outcome.p50_ms,
        p90_ms=outcome.p90_ms,
        p99_ms=outcome.p99_ms,
        p999_ms=outcome.p999_ms,
        max_ms=outcome.max_ms,
        cpu_s=cpu_s,
        generator_cpu_s=outcome.cpu_s,
        errors=outcome.errors,
    )


class RawSubject:
    """Models alone, at their best batch size; a row counts as a request, a run as its latency."""

    def __init__(self, models: Mapping[str, RawModel], *, batch_rows: Mapping[str, int]) -> None:
        self._models = models
        self._batch_rows = batch_rows

    def check(self, side: Side) -> None:
        """It is what others are checked against."""

    def measure(self, side: Side, *, seconds: float) -> Window:
        rate = self._models[side.model].rate(self._batch_rows[side.model], seconds=seconds)
        quantiles_ms = [float(value) for value in np.percentile(rate.run_ms, QUANTILES)]
        p50_ms, p90_ms, p99_ms, p999_ms, max_ms = quantiles_ms
        return Window(
            requests=rate.rows,
            seconds=rate.seconds,
            p50_ms=p50_ms,
            p90_ms=p90_ms,
            p99_ms=p99_ms,
            p999_ms=p999_ms,
            max_ms=max_ms,
            cpu_s=rate.cpu_s,
            generator_cpu_s=0.0,
            errors=0,
        )
