"""autocompress: one search over sparsity, bits, rank and architecture for a real device."""

__version__ = "0.1.0"
