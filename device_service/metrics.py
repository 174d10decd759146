"""Prometheus metrics of the device service.

Knows the engine's reports and prometheus_client; the registry is given, nothing here is global.
"""

from __future__ import annotations

import asyncio

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info
from prometheus_client.gc_collector import GCCollector
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector

from device_service.errors import Code
from device_service.messages import Load, Report
from device_service.model.interface import ModelInfo

PREFIX = "tessera_device_"

STEP_SECONDS = (
    *(0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.075),
    *(0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0, 30.0),
)
QUEUE_SECONDS = (
    *(0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0),
    *(2.5, 5.0, 10.0, 30.0, 60.0, 120.0),
)


class Metrics:
    """All metrics, fed by reports. Children of labels are kept: a lookup costs an observation."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(PREFIX + name, text, registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(PREFIX + name, text, labels, registry=registry)

        self._model = Info(PREFIX + "model", "What is served.", registry=registry)
        self._accepting = gauge("accepting", "1 while new sequences may be opened, else 0.")
        self._slots = gauge("slots", "KV slots: sequences that may be in flight.")
        self._free_slots = gauge("free_slots", "Slots that no open sequence holds.")
        self._open = gauge("open_sequences", "Open sequences, those that wait for a slot included.")
        self._waiting = gauge("waiting_sequences", "Sequences that wait for a slot.")
        self._queued_rows = gauge("queued_rows", "Rows that wait for a step, prompt ids included.")
        self._kv_tokens = gauge("kv_tokens", "Positions that open sequences hold in the KV cache.")
        self._streams = gauge("streams", "Open Decode streams.")
        self._tasks = gauge("asyncio_tasks", "Tasks of the event loop.")
        self._opened = counter("sequences_opened", "Sequences accepted.")
        self._reused = counter(
            "prefix_reused_tokens", "Prompt ids that a slot still held, so that they did not run."
        )
        failed = counter("failed", "Commands refused and sequences lost, by code.", "code")
        self._failed = {code: failed.labels(code.name) for code in Code if code != Code.OK}
        rows = counter("rows", "Rows run, by kind: decode (ids of advances) or prompt.", "kind")
        self._decode_rows = rows.labels("decode")
        self._prompt_rows = rows.labels("prompt")
        steps = counter("steps", "Steps of the model, by outcome: ok or failed.", "outcome")
        self._steps = {True: steps.labels("ok"), False: steps.labels("failed")}
        self._step_seconds = Histogram(
            PREFIX + "step_seconds",
            "Time of a step of the model, seconds.",
            registry=registry,
            buckets=STEP_SECONDS,
        )
        self._queue_seconds = Histogram(
            PREFIX + "queue_seconds",
            "From a command's arrival to the step of its first row, seconds.",
            registry=registry,
            buckets=QUEUE_SECONDS,
        )

    def watch_tasks(self, loop: asyncio.AbstractEventLoop) -> None:
        """Counts the loop's tasks whenever the metrics are read."""
        self._tasks.set_function(lambda: len(asyncio.all_tasks(loop)))

    def serve_model(self, info: ModelInfo) -> None:
        """Tells what is served."""
        self._model.info(
            {
                "name": info.name,
                "architecture": info.architecture,
                "backend": info.backend,
                "precision": info.precision,
                "accelerator": info.accelerator,
                "checkpoint_digest": info.checkpoint_digest,
            }
        )

    def record(self, report: Report, num_streams: int) -> None:
        """Adds what happened since the last report."""
        self._set_load(report.load)
        self._streams.set(num_streams)
        self._opened.inc(report.opened)
        self._reused.inc(report.reused_tokens)
        for code in report.failed_codes:
            self._failed[code].inc()
        for seconds in report.queue_seconds:
            self._queue_seconds.observe(seconds)
        if step := report.step:
            self._steps[step.succeeded].inc()
            self._step_seconds.observe(step.seconds)
            self._decode_rows.inc(step.decode_rows)
            self._prompt_rows.inc(step.prompt_rows)

    def _set_load(self, load: Load) -> None:
        self._accepting.set(load.accepting)
        self._slots.set(load.num_slots)
        self._free_slots.set(load.free_slots)
        self._open.set(load.open_sequences)
        self._waiting.set(load.waiting_sequences)
        self._queued_rows.set(load.queued_rows)
        self._kv_tokens.set(load.kv_tokens)
