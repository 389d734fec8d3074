"""What every test shares: helpers are imported as `tests.*`, and Hypothesis gives the same examples every time."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import torch
from hypothesis import settings

ROOT = str(Path(__file__).parent.parent)
if ROOT not in sys.path:
    sys.path.insert(0, ROOT)

# A shell that starts the tests in the background lets them ignore Ctrl-C, and all that they start as well.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A slow moment of the machine is no failure.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

# The nets are tiny: a second thread costs more than it gives.
torch.set_num_threads(1)
