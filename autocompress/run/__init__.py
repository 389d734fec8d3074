"""The study on disk and the executors."""
