"""Controllers behind one small protocol."""
