"""mlguard: schemas, retry, caching, memory and monitoring for models in production, in one decorator."""

__version__ = "0.1.0.dev0"
