"""Networks that others have measured on real devices, written down from their names alone."""
