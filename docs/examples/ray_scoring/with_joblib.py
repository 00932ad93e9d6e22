"""A guarded function in joblib's processes: python with_joblib.py."""

from typing import Annotated

import numpy as np
import numpy.typing as npt
from joblib import Parallel, delayed

from mlguard import Array, InvalidInputError, Memory, guarded

Features = Annotated[npt.NDArray[np.float64], Array("batch", 3, ge=0)]


@guarded(memory=Memory(need="3x"))
def predict(features: Features) -> float:
    """A model that is easy to check."""
    return float(features.sum())


def main() -> None:
    """Scores four batches in two processes, and looks at what one of them refused."""
    batches = [np.full((2, 3), number) for number in range(4)]
    print(Parallel(n_jobs=2)(delayed(predict)(batch) for batch in batches))
    batches[2] = -batches[2]
    try:
        Parallel(n_jobs=2)(delayed(predict)(batch) for batch in batches)
    except InvalidInputError as refusal:
        print(refusal.errors()[0]["msg"])


if __name__ == "__main__":
    main()
