"""What the requests of one application came to, as far as mlguard had a hand in it. Counted for each process."""

from __future__ import annotations

from typing import Any

__all__ = ["Counts"]


class Counts:
    """Answers by error, and what became of deadlines that requests brought."""

    def __init__(self) -> None:
        self.answers: dict[str, int] = {}
        """Problems answered, by "<status> <class of the error>"."""
        self.broken_streams = 0
        """Answers that broke off, because a guarded call failed after the first chunk was sent."""
        self.clients_left = 0
        """Streams whose client left before their end."""
        self.deadlines = {"taken": 0, "expired": 0, "ignored": 0, "untrusted": 0}
        """Requests with a deadline: taken over, already passed on arrival, unreadable, of a client not trusted."""
        self.log_failures = 0
        """Lines that the logging set-up failed to write."""

    def answered(self, status: int, error: BaseException) -> None:
        key = f"{status} {type(error).__name__}"
        self.answers[key] = self.answers.get(key, 0) + 1

    def as_dict(self) -> dict[str, Any]:
        return {
            "answers": dict(sorted(self.answers.items())),
            "broken_streams": self.broken_streams,
            "clients_left": self.clients_left,
            "deadlines": dict(self.deadlines),
            "log_failures": self.log_failures,
        }
