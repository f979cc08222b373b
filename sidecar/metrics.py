"""The metrics, in the text format of Prometheus, made from what the workers write of themselves.

Labels come from closed sets: states, answers, configured processors, worker numbers.
Each worker has its own series, so that a restart is seen as what it is.

Diagnostics: raises nothing; directories that can't be read give respool_up 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .config import Config
from .measure import BOUNDS, Durations
from .queues import lengths, source_queue
from .status import WorkerStatus, read_all

#: With zeros from the start: a rate needs the count before the first.
_ENDINGS: Final = ("requeued", "discarded", "deferred", "held", "corrupt")
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class StateCollector(Collector):
    """Reads the directories of a configuration anew at each scrape."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def collect(self) -> Iterable[Metric]:
        """All families, also those without a sample: whoever looks finds what there is to find."""
        yield from self._queues()
        reports = read_all(self._config.state_directory)
        for family in (_workers, _messages, _processors, _dns):
            yield from family(reports)

    def _queues(self) -> Iterator[Metric]:
        up = GaugeMetricFamily("respool_up", "1 if the source and the state directory could be read.")
        workers = GaugeMetricFamily("respool_workers_configured", "How many workers there should be.")
        length = GaugeMetricFamily("respool_queue_messages", "Messages in a queue.", labels=["queue"])
        oldest = GaugeMetricFamily(
            "respool_queue_oldest_seconds", "For how long the oldest message has been in a queue.", labels=["queue"]
        )
        received = GaugeMetricFamily(
            "respool_queue_oldest_received_seconds",
            "Time since Exim received the oldest message of a queue.",
            labels=["queue"],
        )
        workers.add_metric([], self._config.workers)
        try:
            found = {"source": source_queue(self._config), **lengths(self._config.state_directory)}
        except OSError:
            found = {}
        up.add_metric([], int(bool(found)))
        for name, queue in found.items():
            length.add_metric([name], queue.length)
            oldest.add_metric([name], queue.oldest_seconds)
            received.add_metric([name], queue.received_seconds)
        yield from (up, workers, length, oldest, received)


def _workers(reports: list[WorkerStatus]) -> Iterator[Metric]:
    gauges: dict[str, tuple[str, str]] = {
        "started": ("respool_worker_start_time_seconds", "When the worker started, Unix time."),
        "written": ("respool_worker_report_time_seconds", "When the worker last reported, Unix time."),
        "waiting": ("respool_worker_waiting", "Messages known in the source and not claimed yet."),
        "in_hand": ("respool_worker_in_hand", "Messages being processed."),
        "stuck": ("respool_worker_stuck", "Messages in hand that can't go on for now."),
    }
    for field, (name, text) in gauges.items():
        family = GaugeMetricFamily(name, text, labels=["worker"])
        for report in reports:
            family.add_metric([str(report.worker)], getattr(report, field))
        yield family
    paused = GaugeMetricFamily("respool_worker_paused", "1 while the system keeps the intake shut.", labels=["worker"])
    pauses = CounterMetricFamily("respool_intake_pauses", "Times that the system shut the intake.", labels=["worker"])
    errors = CounterMetricFamily(
        "respool_errors", "Failures of the system, or of a try to go on with a message.", labels=["worker"]
    )
    for report in reports:
        label = [str(report.worker)]
        paused.add_metric(label, int(bool(report.paused)))
        pauses.add_metric(label, report.measured.pauses)
        errors.add_metric(label, report.measured.errors)
    yield from (paused, pauses, errors)


def _messages(reports: list[WorkerStatus]) -> Iterator[Metric]:
    ended = CounterMetricFamily(
        "respool_messages", "Messages that ended, by the state they ended in.", labels=["worker", "state"]
    )
    outputs = CounterMetricFamily("respool_outputs", "Messages published in the destination.", labels=["worker"])
    duration = HistogramMetricFamily(
        "respool_message_duration_seconds", "From claim to end, of each message.", labels=["worker"]
    )
    requeue = HistogramMetricFamily(
        "respool_requeue_duration_seconds", "Staging, publishing and settling, of each message.", labels=["worker"]
    )
    for report in reports:
        label = str(report.worker)
        for state in _ENDINGS:
            ended.add_metric([label, state], report.ended.get(state, 0))
        outputs.add_metric([label], report.measured.outputs)
        _add(duration, [label], report.measured.messages)
        _add(requeue, [label], report.measured.requeue)
    yield from (ended, outputs, duration, requeue)


def _processors(reports: list[WorkerStatus]) -> Iterator[Metric]:
    answers = CounterMetricFamily(
        "respool_processor_answers", "What processors answered.", labels=["worker", "processor", "answer"]
    )
    duration = HistogramMetricFamily(
        "respool_processor_duration_seconds", "Time of a processor on a message.", labels=["worker", "processor"]
    )
    for report in reports:
        for name, measured in sorted(report.measured.processors.items()):
            for answer, count in sorted(measured.answers.items()):
                answers.add_metric([str(report.worker), name, answer], count)
            _add(duration, [str(report.worker), name], measured.durations)
    yield from (answers, duration)


def _dns(reports: list[WorkerStatus]) -> Iterator[Metric]:
    questions = CounterMetricFamily(
        "respool_dns_questions", "DNS questions, by where the answer came from.", labels=["worker", "answered_by"]
    )
    failures = CounterMetricFamily("respool_dns_failures", "DNS questions that got no answer.", labels=["worker"])
    seconds = CounterMetricFamily("respool_dns_wait_seconds", "Time waited for name servers.", labels=["worker"])
    kept = GaugeMetricFamily("respool_dns_cache_answers", "Answers in the cache.", labels=["worker"])
    for report in reports:
        dns, label = report.measured.dns, str(report.worker)
        if dns is None:
            continue
        for where, count in (("cache", dns.hits), ("network", dns.misses), ("another thread", dns.shared)):
            questions.add_metric([label, where], count)
        failures.add_metric([label], dns.failures)
        seconds.add_metric([label], dns.seconds)
        kept.add_metric([label], dns.size)
    yield from (questions, failures, seconds, kept)


def _add(family: HistogramMetricFamily, labels: list[str], durations: Durations) -> None:
    bounds = [*(str(bound) for bound in BOUNDS), "+Inf"]
    buckets = list(zip(bounds, map(float, accumulate(durations.counts)), strict=False))
    family.add_metric(labels, buckets, sum_value=durations.seconds)


def exposition(config: Config) -> bytes:
    """Everything in Prometheus's text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(StateCollector(config))
    return generate_latest(registry)
