"""Read what other tools measured."""
