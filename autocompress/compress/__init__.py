"""Plan in, model out."""
