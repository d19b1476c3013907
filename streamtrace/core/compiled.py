"""What is compiled (streamtrace/c); `None` where it is not, and then Python does the same.

By name: it is no module of Python that the import floors know of.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

try:
    _speedups: Any = import_module("streamtrace.speedups")
except ImportError:
    Alike = Notes = Sender = count_gaps = encode_attributes = None
else:
    Alike, Notes, Sender = _speedups.Alike, _speedups.Notes, _speedups.Sender
    count_gaps, encode_attributes = _speedups.count_gaps, _speedups.encode_attributes
