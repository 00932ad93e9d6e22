"""The looks of a report, a file for each of its sections. Reads figures, and nothing else."""

from mlguard.report.drawing.whole import page

__all__ = ["page"]
