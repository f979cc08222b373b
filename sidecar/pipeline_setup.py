"""From a configuration to a pipeline.

Diagnostics: ConfigError names the key of the processor that can't be used.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import ConfigError
from ..lookups.dns import Resolver
from ..lookups.resolver import DnsResolver
from ..lookups.zone import ZoneResolver
from ..processors import api
from ..processors.conditions import Condition, compile_condition
from ..processors.registry import build
from .config import Config, DnsSection, PipelineConfig, ProcessorEntry
from .config_hint import where_it_belongs
from .pipeline import Pipeline
from .step import Step


def build_steps(entries: Iterable[ProcessorEntry]) -> tuple[Step, ...]:
    """The processors of a configuration, in order. Raises ConfigError with the entry's key."""
    steps: list[Step] = []
    for index, entry in enumerate(entries):
        key = f"$.processor[{index}]"
        try:
            processor = build(entry.use, entry.config)
            condition = _condition(entry)
        except ConfigError as error:
            raise ConfigError(_reason(error, entry), file=error.file, key=f"{key}.{error.key}") from error
        if steps and _phase(processor).rank < _phase(steps[-1].processor).rank:
            before = steps[-1]
            raise ConfigError(
                f'"{entry.use}" belongs to phase {_phase(processor)} and can\'t come after "{before.name}", '
                f"which belongs to {_phase(before.processor)} (verify < modify < sign < seal)",
                key=key,
            )
        steps.append(Step(entry.use, processor, entry.on_error, condition, entry.split))
    return tuple(steps)


def _reason(error: ConfigError, entry: ProcessorEntry) -> str:
    """What is wrong; of a setting that is none of the processor's, but of the entry around it, where it belongs."""
    table, _, name = error.key.partition(".")
    what, _, _ = error.reason.partition(";")
    if table != "config" or "unknown field" not in what:
        return error.reason
    belongs = where_it_belongs(Config, {"processor": [{"use": entry.use}]}, "$.processor[0].config", name)
    return what + belongs if belongs else error.reason


def _condition(entry: ProcessorEntry) -> Condition | None:
    condition = None if entry.when is None else compile_condition(entry.when)
    if entry.split and (condition is None or not condition.names_recipients):
        raise ConfigError("there is nothing to divide by: when names no recipients", key="split")
    return condition


def _phase(processor: api.Processor[Any]) -> api.Phase:
    return api.Phase(processor.phase)


def make_resolver(section: DnsSection) -> Resolver:
    """The resolver that ``[dns]`` asks for. Raises ConfigError."""
    if section.zone_file is not None:
        try:
            return ZoneResolver.from_file(section.zone_file)
        except ConfigError as error:
            raise ConfigError(error.reason, file=error.file, key="$.dns.zone_file") from error
    return DnsResolver(section.nameservers)


def make_pipeline(
    config: PipelineConfig,
    steps: tuple[Step, ...],
    *,
    queue: str = "",
    first_wait_seconds: float = 60.0,
    longest_wait_seconds: float = 3600.0,
    notes_vouched: bool = False,
) -> Pipeline:
    """The pipeline of a worker. queue is where outputs go unless a processor says otherwise.

    notes_vouched: outputs say whether a notice may go to their sender, for a destination that
    finds out later whether it has to.
    """
    return Pipeline(
        steps,
        hostname=config.hostname,
        authserv_id=config.our_authserv_id,
        resolver=make_resolver(config.dns),
        queue=queue,
        deadline_seconds=config.deadline_seconds,
        notes_vouched=notes_vouched,
        first_wait_seconds=first_wait_seconds,
        longest_wait_seconds=longest_wait_seconds,
    )
