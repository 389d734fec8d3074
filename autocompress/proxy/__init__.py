"""Plan in, metrics out."""
