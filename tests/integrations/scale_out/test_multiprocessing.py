"""Python's own pools, whose children import the script anew under another name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import multiprocessing, os
from mlguard import Cache, guarded

@guarded(cache=Cache(ttl="1m", store="sqlite:///cache.db"), model_version="1")
def computed_by(x: int) -> int:
    return os.getpid()

if __name__ == "__main__":
    said = [computed_by(1)]
    for method in ("spawn", "fork"):
        with multiprocessing.get_context(method).Pool(1) as pool:
            said.append(pool.apply(computed_by, (1,)))
            pool.close()
            pool.join()
    print(said == [os.getpid()] * 3)
"""


def test_a_script_and_its_children_share_results(tmp_path: Path) -> None:
    """A function of a script is the same function in the processes that the script starts, in whatever way."""
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, capture_output=True, text=True, timeout=110, check=False
    )
    assert (done.stdout, done.returncode) == ("True\n", 0), done.stderr
