"""Counters for Prometheus, by vLLM's names with `mmfs:` in front, so that its dashboards need one replacement."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from export.serve.engine.events import Completed
from export.serve.engine.interface import Engine

SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
LONG = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
"""Upper ends of histograms' ranges, in seconds."""


class Metrics:
    """What a server has done, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"mmfs:{name}", what, labels, registry=self.registry)

        def seconds(name: str, what: str, ends: tuple[float, ...]) -> Histogram:
            return Histogram(f"mmfs:{name}", what, registry=self.registry, buckets=ends)

        self.rejections = counter("admission_rejections", "Requests that were not taken.", "reason")
        self.successes = counter("request_success", "Requests that were answered.", "finished_reason")
        self.cancelled = counter("cancelled", "Requests that ended before their answer.", "why")
        self.failures = counter("request_failure", "Requests that were answered with an error.", "status")
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self.generation_tokens = counter("generation_tokens", "Tokens written.")
        self.cache_queries = counter("prefix_cache_queries", "Tokens of prompts that were looked for in the cache.")
        self.cache_hits = counter("prefix_cache_hits", "Tokens of prompts that had been read before.")
        self.images_read = counter("images_read", "Images of prompts.")
        self.images_drawn = counter("images_drawn", "Images drawn.")
        self.first_token = seconds("time_to_first_token_seconds", "From a request to its first piece.", LONG)
        self.between_tokens = seconds("inter_token_latency_seconds", "Between two pieces of text.", SHORT)
        self.whole_request = seconds("e2e_request_latency_seconds", "From a request to the end of its answer.", LONG)
        self.queue = seconds("request_queue_time_seconds", "In the queue.", LONG)
        self.denoising_step = seconds("denoising_step_seconds", "Between two denoising steps of an image.", SHORT)
        self.first_preview = seconds("time_to_first_preview_seconds", "From a request to its first preview.", LONG)

    def watch(self, engine: Engine) -> None:
        """Ask this engine for its state, whenever somebody asks for the counters."""
        self.registry.register(_EngineState(engine))

    def completed(self, event: Completed, seconds: float) -> None:
        """Count a request that was answered within so many seconds."""
        finished = event.finished
        self.successes.labels(finished.finish_reason).inc()
        self.prompt_tokens.inc(finished.num_prompt_tokens)
        self.generation_tokens.inc(finished.num_new_tokens)
        self.cache_queries.inc(finished.num_prompt_tokens)
        self.cache_hits.inc(finished.num_cached_tokens)
        self.images_read.inc(event.num_prompt_images)
        self.images_drawn.inc(event.num_new_images)
        self.queue.observe(event.timings.queued)
        self.whole_request.observe(seconds)

    def text(self) -> bytes:
        """All of it in Prometheus's form."""
        return generate_latest(self.registry)


class _EngineState(Collector):
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterator[Metric]:
        """The engine's figures at this moment."""
        stats = self._engine.stats()
        yield GaugeMetricFamily("mmfs:num_requests_running", "Requests being computed.", stats.num_running)
        yield GaugeMetricFamily("mmfs:num_requests_waiting", "Requests in the queue.", stats.num_waiting)
        rows = GaugeMetricFamily("mmfs:batch_rows", "Documents and images in a batch.", labels=["kind"])
        rows.add_metric(["writing"], stats.num_writing)
        rows.add_metric(["drawing"], stats.num_drawing)
        yield rows
        yield GaugeMetricFamily(
            "mmfs:conversations_open", "Documents kept for their next turn.", stats.num_conversations
        )
        yield GaugeMetricFamily("mmfs:conversation_bytes", "What they take.", stats.conversation_bytes)
