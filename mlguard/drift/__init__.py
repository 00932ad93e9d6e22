"""Drift: whether a model still sees, and says, what it did in training.

`profile` makes the reference, `Drift` is what a policy says about it, `merge` adds up what workers counted. The rest is
loaded when it is first used.
"""

from typing import TYPE_CHECKING

from mlguard.drift.section import Drift
from mlguard.later import later

if TYPE_CHECKING:
    from mlguard.drift.comparison import Comparison, compare, compare_counts
    from mlguard.drift.errors import ProfileError
    from mlguard.drift.fleet import merge, subtract
    from mlguard.drift.making import profile
    from mlguard.drift.reference import Profile

__all__ = [
    "Comparison",
    "Drift",
    "Profile",
    "ProfileError",
    "compare",
    "compare_counts",
    "merge",
    "profile",
    "subtract",
]

__getattr__ = later(
    __name__,
    {
        "Comparison": "comparison",
        "Profile": "reference",
        "ProfileError": "errors",
        "compare": "comparison",
        "compare_counts": "comparison",
        "merge": "fleet",
        "profile": "making",
        "subtract": "fleet",
    },
)
