"""A space in Python, for what YAML cannot compute. Copy this file and run `search --space my_space.py`.

The file must define `rules()`, which returns the same form as a YAML space; joint.yaml explains every key.
"""

from __future__ import annotations

from typing import Any

# 1/8, 2/8, ... of the channels.
EIGHTHS = [step / 8 for step in range(1, 6)]


def rules() -> dict[str, Any]:
    """Prunes in steps of an eighth to multiples of 8 channels, and quantizes without ever leaving fp32 behind."""
    return {
        "name": "custom_example",
        "rules": [
            {"op": "prune", "sparsity": EIGHTHS, "criterion": "l2", "round_to": 8},
            {"op": "quantize", "w_bits": [8, 4], "a_bits": 8, "optional": False},
        ],
        "distill": {"temperature": 2.0, "weight": 0.5},
    }
