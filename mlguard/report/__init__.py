"""The report: what a record of guarded calls comes to, as one page that a person wants to look at.

`gather` reads a record and counts, `page` draws, `save` writes. The numbers (`figures`) know nothing of HTML, and
`drawing` reads nothing but the numbers. What stays out: reading the record, which `mlguard.record` does, and any
judgement on drift, which is that of `mlguard.drift`.
"""

from typing import TYPE_CHECKING

from mlguard.later import later

if TYPE_CHECKING:
    from mlguard.report.drawing import page
    from mlguard.report.figures import Figures
    from mlguard.report.files import ReportError, as_json, save
    from mlguard.report.gathering import gather

__all__ = ["Figures", "ReportError", "as_json", "gather", "page", "save"]

__getattr__ = later(
    __name__,
    {
        "Figures": "figures",
        "ReportError": "files",
        "as_json": "files",
        "gather": "gathering",
        "page": "drawing",
        "save": "files",
    },
)
