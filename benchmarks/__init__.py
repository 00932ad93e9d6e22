"""What mlguard costs beside its peers and beside a wrapper written by hand: `python -m benchmarks`.

One file per claim (`retry.py`, `validation.py`, ...): its `cases()` say who is timed on which call, and the budget as
data. `case.py` says what a case is, `measure.py` times it, `verdicts.py` compares, `table.py` and `record.py` show it.
Peers and hand-written limits live in `peers.py`, `limit.py` and `lines.py`. Whether anything works is for the tests.
"""
