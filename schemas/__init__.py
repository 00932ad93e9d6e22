"""The contracts: input schemas as a user declares them, used by tests, benchmarks and docs."""

from schemas.embedding import Query
from schemas.image import Photo
from schemas.tabular import Patient, Transaction
from schemas.text import Document

__all__ = ["Document", "Patient", "Photo", "Query", "Transaction"]
