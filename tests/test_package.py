"""The package as a whole: its public names. What is built of it, and where that works, is tested in `packaging`."""

from __future__ import annotations

from pathlib import Path

import mlguard


def test_public_names() -> None:
    """The public names are sorted, all there, and nothing is public by accident."""
    assert mlguard.__all__ == sorted(mlguard.__all__)
    assert all(hasattr(mlguard, name) for name in mlguard.__all__)
    assert (Path(mlguard.__file__).parent / "py.typed").exists()
