"""Guarded functions as tasks and actors of Ray: python tasks.py."""

from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import ray

from mlguard import Array, Concurrency, InvalidInputError, MemoryPressureError, Monitor, guarded

Features = Annotated[npt.NDArray[np.float64], Array("batch", 3, ge=0)]


@guarded(monitor=Monitor())
def predict(features: Features) -> float:
    """A model that is easy to check."""
    return float(features.sum())


@ray.remote
class Model:
    """One in a process, with weights that are loaded once."""

    def __init__(self) -> None:
        self.weights = np.array([1.0, 2.0, 3.0])

    @guarded(concurrency=Concurrency(max_concurrent=1))
    async def predict(self, features: Features) -> float:
        """A method is guarded like a function, below `ray.remote` of its class."""
        return float((features @ self.weights).sum())


def log_as_json() -> None:
    """A worker has no logging set up but Ray's own: this runs in each, once, when it starts."""
    import structlog

    structlog.configure(processors=[structlog.processors.JSONRenderer()])


def main() -> Any:
    """Calls both, and looks at what a worker refused."""
    ray.init(runtime_env={"worker_process_setup_hook": log_as_json})

    task = ray.remote(max_retries=3, retry_exceptions=[MemoryPressureError])(predict)
    model = Model.remote()
    print(ray.get([task.remote(np.ones((2, 3))), model.predict.remote(np.ones((2, 3)))]))

    try:
        ray.get(task.remote(np.array([[1.0, np.nan, 3.0]])))
    except InvalidInputError as refusal:  # raised in the worker, caught here by its own class
        print(refusal.errors()[0]["msg"])


if __name__ == "__main__":
    main()
