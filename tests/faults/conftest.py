"""A Redis or Valkey of one's own, as the tests of stores start it: killed, paused, resumed, with options."""

import shutil
import signal
import socket
import subprocess
import time

import pytest

SERVERS = ("redis-server", "valkey-server")


class Server:
    def __init__(self, binary, folder, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)]
        self.command += ["--save", "", "--appendonly", "no", *options]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(500):
            if self.process.poll() is not None:
                return  # it refused an option; the test decides
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.02)
        raise RuntimeError("the server did not start")

    def kill(self):
        self.process.kill()
        self.process.wait()

    def pause(self):
        self.process.send_signal(signal.SIGSTOP)

    def resume(self):
        self.process.send_signal(signal.SIGCONT)


@pytest.fixture(scope="session")
def redis_binary():
    found = next(filter(None, map(shutil.which, SERVERS)), None)
    if found is None:
        pytest.skip(f"none of {', '.join(SERVERS)} is installed on this machine")
    pytest.importorskip("redis", reason="redis-py is not installed")
    return found


@pytest.fixture
def redis_server(redis_binary, tmp_path):
    """`redis_server(*options)` starts one; all of them end with the test."""
    started = []

    def start(*options, binary=redis_binary):
        started.append(Server(binary, tmp_path, *options))
        return started[-1]

    yield start
    for server in started:
        server.resume() if server.process.poll() is None else None
        server.kill()


@pytest.fixture(scope="class")
def class_server(redis_binary, tmp_path_factory):
    """One server for a class of tests."""
    server = Server(redis_binary, tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()
