"""What Prometheus sees of the gateway, and the times of each request.

Knows metric names and clocks; knows nothing of gRPC, of text, or of devices.
"""

from __future__ import annotations

import asyncio
import time

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

from gateway.events import Timings

# Seconds; from a fast decode step to a long answer.
_LATENCY_BUCKETS = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0),
)
_DURATION_BUCKETS = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0),
    *(120.0, 240.0, 480.0, 960.0, 1920.0),
)
_TOKEN_BUCKETS = tuple(float(2**power) for power in range(0, 18))


class Metrics:
    """The gateway's metrics, in a registry of their own. Names follow vLLM's."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        self.requests = Counter(
            "tessera_requests",
            "Generate requests that ended, by outcome: ok, or the gRPC status in lower case",
            ["outcome"],
            registry=registry,
        )
        self.successes = Counter(
            "tessera_request_success",
            "Generate requests that finished, by reason: stop, length or deadline",
            ["finished_reason"],
            registry=registry,
        )
        self.running = Gauge(
            "tessera_num_requests_running",
            "Requests that have had their first token",
            registry=registry,
        )
        self.waiting = Gauge(
            "tessera_num_requests_waiting",
            "Requests that wait for their first token: queued, or in prefill",
            registry=registry,
        )
        self.prompt_tokens = Counter(
            "tessera_prompt_tokens", "Prompt tokens sent to devices", registry=registry
        )
        self.generation_tokens = Counter(
            "tessera_generation_tokens", "Tokens generated", registry=registry
        )
        self.full_rows = Counter(
            "tessera_full_rows",
            "Positions whose full logits row was asked for: the candidates left the token open",
            registry=registry,
        )
        self.time_to_first_token = Histogram(
            "tessera_time_to_first_token_seconds",
            "From a request's arrival to its first token",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.inter_token_latency = Histogram(
            "tessera_inter_token_latency_seconds",
            "Between two tokens of a request",
            buckets=_LATENCY_BUCKETS,
            registry=registry,
        )
        self.e2e_latency = Histogram(
            "tessera_e2e_request_latency_seconds",
            "From a request's arrival to its end; finished requests only",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.queue_time = Histogram(
            "tessera_request_queue_time_seconds",
            "From a request's arrival to its prompt's first step",
            buckets=_DURATION_BUCKETS,
            registry=registry,
        )
        self.request_prompt_tokens = Histogram(
            "tessera_request_prompt_tokens",
            "Prompt tokens of a request",
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )
        self.request_generation_tokens = Histogram(
            "tessera_request_generation_tokens",
            "Tokens generated for a finished request",
            buckets=_TOKEN_BUCKETS,
            registry=registry,
        )
        self.device_ready = Gauge(
            "tessera_device_ready", "1 while a device can take requests, else 0", registry=registry
        )
        self.asyncio_tasks = Gauge(
            "tessera_asyncio_tasks", "asyncio tasks alive in the gateway", registry=registry
        )
        # Series that exist from the start can be alerted on.
        for reason in ("stop", "length", "deadline"):
            self.successes.labels(reason)
        self.requests.labels("ok")

    def watch_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Counts the tasks of `loop` whenever the metrics are read."""
        self.asyncio_tasks.set_function(lambda: float(len(asyncio.all_tasks(loop))))


class RequestMeter:
    """The times and counts of one request, from its arrival to its end.

    Attributes:
        full_rows: positions whose full row was asked for.
    """

    def __init__(self, metrics: Metrics) -> None:
        self.full_rows = 0
        self._queued_seconds: float | None = None
        self._first_token_seconds: float | None = None
        self._device_seconds = 0.0
        self._metrics = metrics
        self._arrival = time.monotonic()
        self._sent_at = self._arrival
        self._last_token_at = self._arrival
        self._prompt_sent = False
        self._generated_tokens = 0

    def timings(self) -> Timings:
        """The times so far."""
        return Timings(
            queued=self._queued_seconds,
            time_to_first_token=self._first_token_seconds,
            total=self.elapsed(),
            device=self._device_seconds,
        )

    def elapsed(self) -> float:
        """Seconds since arrival."""
        return time.monotonic() - self._arrival

    def prompt_sent(self, num_tokens: int) -> None:
        """The prompt was sent to a device; the request waits from now on."""
        self._sent_at = time.monotonic()
        self._prompt_sent = True
        self._metrics.waiting.inc()
        self._metrics.prompt_tokens.inc(num_tokens)
        self._metrics.request_prompt_tokens.observe(num_tokens)

    def readout(self, queued_us: int, device_us: int) -> None:
        """A readout arrived, with the device's own times."""
        self._device_seconds += device_us / 1e6
        if self._queued_seconds is None:
            self._queued_seconds = self._sent_at - self._arrival + queued_us / 1e6
            self._metrics.queue_time.observe(self._queued_seconds)

    def full_row(self) -> None:
        """A full row was asked for."""
        self.full_rows += 1
        self._metrics.full_rows.inc()

    def token(self) -> None:
        """A token was decided."""
        now = time.monotonic()
        self._generated_tokens += 1
        self._metrics.generation_tokens.inc()
        if self._first_token_seconds is None:
            self._first_token_seconds = now - self._arrival
            self._metrics.time_to_first_token.observe(self._first_token_seconds)
            self._metrics.waiting.dec()
            self._metrics.running.inc()
        else:
            self._metrics.inter_token_latency.observe(now - self._last_token_at)
        self._last_token_at = now

    def end(self, outcome: str, finished_reason: str | None) -> None:
        """The request ended, in whatever way; called once.

        Args:
            outcome: "ok", or a gRPC status in lower case.
            finished_reason: "stop", "length" or "deadline"; None where the answer broke off.
        """
        if self._first_token_seconds is not None:
            self._metrics.running.dec()
        elif self._prompt_sent:
            self._metrics.waiting.dec()
        self._metrics.requests.labels(outcome).inc()
        if finished_reason is not None:
            self._metrics.successes.labels(finished_reason).inc()
            self._metrics.e2e_latency.observe(self.elapsed())
            self._metrics.request_generation_tokens.observe(self._generated_tokens)
