"""Claims about behaviour rather than speed, shown on real parts. ``python -m benchmarks.proof`` runs them."""
