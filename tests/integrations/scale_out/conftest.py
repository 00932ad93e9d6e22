"""A local Ray cluster that talks to nobody, and a Redis that all workers share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from mlguard.memory import container, shared_file

# Read by Ray when it starts. No usage report, no token file in the user's home, and workers that keep the driver's
# environment where it is started by `uv run`.
QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """Two CPUs' worth of workers; `address` is what other drivers connect to, `ledger` the workers' memory ledger."""
    # Not pytest's folder: the paths of Ray's sockets have an end at 107 characters.
    home = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    ledger = os.path.join(home, "ledger")
    os.mkdir(ledger)
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith("MLGUARD")]:
            patch.delenv(name)
        for name, value in {**QUIET, shared_file.FOLDER_VARIABLE: ledger}.items():
            patch.setenv(name, value)
        patch.chdir(home)  # where workers start, so that they find no policy file of this repository
        container.of_this_container.renew()
        import ray

        ray.init(
            address="local",
            num_cpus=2,
            include_dashboard=False,
            object_store_memory=80 << 20,
            configure_logging=False,
            log_to_driver=False,
            _temp_dir=home,
        )
        try:
            yield SimpleNamespace(
                address=ray.get_runtime_context().gcs_address, home=home, ledger=ledger, environment=QUIET
            )
        finally:
            ray.shutdown()
            container.of_this_container.renew()
            shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis on a port of its own, for as long as the tests run."""
    binary = shutil.which("redis-server") or shutil.which("valkey-server")
    if binary is None:
        pytest.skip("neither redis-server nor valkey-server is installed on this machine")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    folder = tmp_path_factory.mktemp("redis")
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(1000):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None, "redis-server did not start"
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()
