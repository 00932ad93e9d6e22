import gc
import weakref

import pytest

from mlguard import policies


@pytest.fixture(autouse=True)
def service(tmp_path, monkeypatch):
    """An empty service folder as working directory, with nothing defined and no variables."""
    import os

    for name in os.environ:
        if name.startswith("MLGUARD"):
            monkeypatch.delenv(name)
    monkeypatch.setattr("mlguard.wrapper._wrappers", weakref.WeakSet())  # functions of other tests are no matter here
    monkeypatch.chdir(tmp_path)
    policies.reset()
    yield tmp_path
    policies.reset()
    gc.collect()  # the guarded functions of a test are no matter for the next


@pytest.fixture
def write(service):
    """Writes the policy file of the service."""

    def write(text, name="mlguard.toml"):
        path = service / name
        path.write_text(text, encoding="utf-8")
        return path

    return write
