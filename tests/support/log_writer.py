"""A producer in a process of its own: `log_writer.py redis URL`, or `sqlite PATH`, and a run id.

Writes until it is killed, and prints the number of each entry that was written.
"""

from __future__ import annotations

import asyncio
import itertools
import sys

from streamtrace.serve.log.base import EventLog, LogBounds, RunKey

LEASE_S = 1.0


def opened(backend: str, where: str) -> EventLog:
    bounds = LogBounds(lease_s=LEASE_S)
    if backend == "redis":
        from streamtrace.serve.log.redis import RedisLog

        return RedisLog(where, bounds)
    from streamtrace.serve.log.sqlite import SqliteLog

    return SqliteLog(where, bounds)


async def main() -> None:
    backend, where, run_id = sys.argv[1:]
    log, key = opened(backend, where), RunKey(run_id)
    await log.create(key, "the owner", b"", thread_id="thread")
    for number in itertools.count(1):
        await log.append(key, "the owner", [b"%d" % number], after=number - 1)
        print(number, flush=True)
        await asyncio.sleep(0.001)


if __name__ == "__main__":
    asyncio.run(main())
