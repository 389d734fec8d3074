"""Export, verify, report."""
