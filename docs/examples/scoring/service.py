"""Scores one number a line, under the platform's policy."""

import sys

import structlog

from mlguard import guarded, policies


@guarded("realtime")
def score(x: float) -> float:
    """A model that is easy to check."""
    return 2 * x


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # answers go to standard output
    policies.bind_all()  # everything that is wrong is told now, not at the first call
    with policies.watch("50ms"):
        for line in sys.stdin:
            if line.strip() == "limit":
                print(score.guard.policy.concurrency.max_concurrent, flush=True)
            else:
                print(score(line), flush=True)
