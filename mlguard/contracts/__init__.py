"""Contracts: what an input class or a guarded function takes and gives, said so that other programs can read it.

As JSON Schema and as Open Inference metadata, learnt from data, and compared between two versions.
"""

from mlguard.contracts.compatibility import Comparison, compare
from mlguard.contracts.infer import infer, infer_from
from mlguard.contracts.json_schema import json_schema
from mlguard.contracts.protocol import model_metadata
from mlguard.contracts.subject import ContractError, load

__all__ = ["Comparison", "ContractError", "compare", "infer", "infer_from", "json_schema", "load", "model_metadata"]
