"""The client of a feature service: what the models of this folder know of a patient, a picture or a document."""

import os
from functools import cache
from typing import Any

import httpx

from mlguard import guarded, time_left


@cache
def client() -> httpx.Client:
    """One pool of connections."""
    return httpx.Client(base_url=os.environ["FEATURES_URL"])


@guarded("feature_service")
def fetch(path: str) -> Any:
    """What the service says about one thing, as JSON."""
    answer = client().get(path, timeout=time_left())  # a plain function can't be interrupted: its client must know
    return answer.raise_for_status().json()
