"""Data and pure functions: plans, spaces, metrics, fronts, targets, codecs. No torch here."""
