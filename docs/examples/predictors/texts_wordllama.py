"""Embeddings: a model whose weights come with its package, so that nothing is downloaded."""

from functools import cache
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
import wordllama
from features import fetch
from pydantic import StringConstraints

from mlguard import Array, guarded

Text = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
Texts = Annotated[list[Text], Array(("batch", 1, 64))]
Vectors = Annotated[npt.NDArray[np.float32], Array("batch", 256, finite=True)]


@cache
def model() -> wordllama.WordLlamaInference:
    """The model. Its tokenizer is looked for in `cache_dir`; without `disable_download` the network would be asked."""
    package = Path(wordllama.__file__).parent
    return wordllama.WordLlama.load(cache_dir=package, disable_download=True)


@guarded("predictor", rows="texts", cache={"rows": True}, model_version="wordllama-256")
def embed(texts: Texts) -> Vectors:
    """One vector a text; each text is cached by itself."""
    return model().embed(texts)


def likeness(document: str, query: str) -> float:
    """How much a document of the feature service is about what somebody asks for, from -1 to 1."""
    one, other = embed([fetch(f"documents/{document}")["text"], query])
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))
