"""Scores a table on Ray, each row once, also when a worker is killed in the middle.

    python score.py --rows 9000 --cache "redis://127.0.0.1:6379/0?timeout=2s" --out predictions

Ray does a dead worker's task again, from its start. The batches that the worker had done are then answered by the cache
that all workers share, so that only what was in flight is computed again; and a second run of the script computes
nothing at all.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import ray
import ray.data
from sklearn.datasets import load_digits
from sklearn.ensemble import RandomForestClassifier

from mlguard import Array, guarded

VERSION = "digits-1"
BATCH = 100

Pixels = Annotated[npt.NDArray[np.float64], Array("batch", 64, ge=0, le=16)]
RowIds = Annotated[npt.NDArray[np.int64], Array("batch", ge=0)]
Digits = Annotated[npt.NDArray[np.int64], Array("batch", ge=0, le=9)]


class Scorer:
    """One in each worker: the model is loaded once and scores batch after batch."""

    def __init__(self, journal: str | None = None) -> None:
        pixels, digits = load_digits(return_X_y=True)  # yours is loaded from where it lies
        self.model = RandomForestClassifier(n_estimators=200, random_state=0).fit(pixels, digits)
        self.journal = None if journal is None else Path(journal, f"{os.getpid()}.txt")

    def __mlguard_key__(self) -> str:
        return VERSION

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """What Ray calls: it knows tables of columns, the model arrays."""
        return {"row": batch["row"], "digit": self.predict(batch["pixels"], batch["row"])}

    @guarded("scoring", rows=("pixels", "row_ids"), model_version=VERSION)
    def predict(self, pixels: Pixels, row_ids: RowIds) -> Digits:
        """The digit on each picture."""
        if self.journal is not None:
            with self.journal.open("a") as journal:
                journal.write(" ".join(map(str, row_ids.tolist())) + "\n")
        return self.model.predict(pixels)


def pictures(batch: dict[str, Any]) -> dict[str, Any]:
    """The features of some rows: the handwritten digits of scikit-learn, over and over."""
    pixels, _ = load_digits(return_X_y=True)
    return {"row": batch["id"], "pixels": pixels[batch["id"] % len(pixels)]}


def main() -> None:
    """Reads the command line, scores and writes."""
    command = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    command.add_argument("--rows", type=int, default=9000)
    command.add_argument("--cache", required=True, help="the Redis that all workers share")
    command.add_argument("--out", required=True, help="a new folder for Parquet files")
    command.add_argument("--journal", help="a folder in which each worker writes down the rows it runs the model on")
    options = command.parse_args()

    ray.init(
        runtime_env={
            "working_dir": str(Path(__file__).parent),  # with mlguard.toml, which each worker reads
            "env_vars": {"MLGUARD__SCORING__CACHE__STORE": options.cache},
        }
    )
    workers = ray.data.ActorPoolStrategy(size=2)
    (
        ray.data.range(options.rows, override_num_blocks=max(1, options.rows // (10 * BATCH)))
        .map_batches(pictures)
        .map_batches(Scorer, fn_constructor_args=(options.journal,), batch_size=BATCH, compute=workers, num_cpus=0.5)
        .write_parquet(options.out)
    )


if __name__ == "__main__":
    main()
