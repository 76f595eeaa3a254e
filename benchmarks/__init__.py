"""The ratios that charter claims, each measured by a command: `python -m benchmarks`.

Both sides of a ratio do the same work in one process, in turn, on one thread. What was measured
when is in RESULTS.md.
"""
