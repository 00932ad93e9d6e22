"""The numbers of a report, a file for each of its sections, without any of its looks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from mlguard.report.figures.concerns import ConcernFigures
from mlguard.report.figures.failures import Failures
from mlguard.report.figures.frame import Frame
from mlguard.report.figures.functions import Function
from mlguard.report.figures.latency import Latency
from mlguard.report.figures.reference import Reference
from mlguard.report.figures.slowest import SlowCall
from mlguard.report.figures.source import Source
from mlguard.report.figures.traffic import Traffic

__all__ = ["Figures"]


@dataclass(frozen=True)
class Figures:
    """Everything that the page says, as numbers."""

    title: str | None
    made: datetime
    """When the report was made, in UTC."""
    version: str
    """Of mlguard."""
    source: Source
    frame: Frame
    traffic: Traffic
    latency: Latency
    concerns: ConcernFigures
    failures: Failures
    reference: Reference
    functions: tuple[Function, ...]
    slowest: tuple[SlowCall, ...]
