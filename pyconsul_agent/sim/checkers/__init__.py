"""One invariant a file. Those that watch are called at once while the cluster runs; the others judge a history.

All raise `sim.history.Violation`, whose text begins with the invariant's name (docs/reliability.md).
"""
