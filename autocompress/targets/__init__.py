"""Load, fit and measure a target's tables."""
