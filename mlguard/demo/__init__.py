"""The main job on real data: one model, one bad day, served without guards and with them.

`mlguard demo` trains a classifier, starts a feature service that fails, stalls and corrupts rows, and sends the same
seeded calls through the same two functions twice. What is guarded is in `guarded.py`; `unguarded.py` is the same
without the decorators. Nothing here is imported by the library.
"""
