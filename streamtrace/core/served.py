"""What `streamtrace.serve` counts of all that it serves in this process, for whoever reports it.

Who serves adds to `SERVED`; sinks of metrics read it. Neither knows the other.

Rules that hold here:

* All are whole numbers that only rise, but for the gauges, which say how it is now.
* They are added to on event loops, mostly one.
"""

from __future__ import annotations

import msgspec


class Served(msgspec.Struct, kw_only=True):
    """Of runs that are logged, and of those who follow them.

    gauges: `followers`, `log_bytes`
    """

    resumes: int = 0
    """Connections that went on behind a cursor."""
    replayed_events: int = 0
    """Events that were told again, or late: they were in the log when the follower came."""
    gaps: int = 0
    """Times that a follower was told of a gap."""
    gap_events: int = 0
    """The events that were missing in them."""
    orphaned_runs: int = 0
    """Runs that were found without a producer, each once."""
    logged_events: int = 0
    """Events that the log has taken."""
    unlogged_events: int = 0
    """Events that it could not be given."""
    followers: int = 0
    """Connections that are open now, those that began their runs among them."""
    log_bytes: int = 0
    """What logs keep of the runs that go on in this process."""


SERVED = Served()
