"""Task - model, data, loss, metric; the built-in tasks; loading a user's task."""
