"""The contracts: input schemas as a user declares them, used by tests, benchmarks and docs.

Beside each stands its JSON Schema, ``patient.schema.json`` for `Patient`; ``make schemas`` writes them anew.
"""

from schemas.embedding import Query
from schemas.image import Digits, Photo
from schemas.tabular import Flower, Patient, Transaction
from schemas.text import Completion, Document, Message

__all__ = ["Completion", "Digits", "Document", "Flower", "Message", "Patient", "Photo", "Query", "Transaction"]
