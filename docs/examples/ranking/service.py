"""Ranks numbers, under a policy of its own that extends the platform's."""

from mlguard import guarded, policies


@guarded("ranking")
def ranked(values: list[float]) -> list[float]:
    """The largest first."""
    return sorted(values, reverse=True)


if __name__ == "__main__":
    policies.bind_all()
    print(ranked([2.0, 3.0, 1.0]))
    print(policies.explain("ranking"))
