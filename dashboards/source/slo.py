"""What is promised to users, once for the dashboards and the alerts.

Bad streams are those that broke: an error, a time limit, an end without the dialect's last event, a
shutdown that cut them. Streams whose client left are on neither side: nobody knows how they would
have ended. A run that waits for an answer, or was stopped on request, went well.
"""

from __future__ import annotations

BAD = "error|timeout|truncated|drained"
LEFT = "disconnected"
AVAILABILITY = 0.99
FIRST_TOKEN_S = 2
FIRST_TOKEN = 0.95
FIRST_TOKEN_EDGE = r"2(\\.0)?"
"""The bucket of that many seconds: clients write its edge as `2` or as `2.0`."""

BURN_RATES = {"page fast": 14.4, "page slow": 6.0, "ticket fast": 3.0, "ticket slow": 1.0}
"""How many times faster than allowed the budget of 30 days is used up (SRE workbook, chapter 5)."""
