"""What a producer says of its run when it begins: enough for any replica to let in and to answer.

It is kept in the log as JSON. Nothing of what was asked or answered is in it, and of the user only
a hash.
"""

from __future__ import annotations

import hmac
import time
from typing import Annotated

import msgspec

from streamtrace.core.errors import LogError
from streamtrace.dialects.base import Envelope
from streamtrace.serve.auth import User
from streamtrace.serve.callers import caller_key
from streamtrace.serve.context import RunContext
from streamtrace.serve.log.base import RunKey

_TRACEPARENT = "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"


class RunMeta(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """See the module docstring. `user`: a hash of who began the run, within its tenant.
    `traceparent`: the trace of the connection that began it (W3C Trace Context)."""

    run_id: str
    thread_id: str
    message_id: str
    dialect: str
    user: str
    started_at_ns: int
    model: str = "agent"
    traceparent: Annotated[str, msgspec.Meta(pattern=_TRACEPARENT)] | None = None

    @classmethod
    def of(cls, context: RunContext, dialect: str, traceparent: str | None) -> RunMeta:
        """That of a run which begins now."""
        asked = context.input
        model = asked.get("model") if isinstance(asked, dict) else None
        return cls(
            run_id=context.run_id,
            thread_id=context.thread_id,
            message_id=context.message_id,
            dialect=dialect,
            user=user_hash(context.user),
            started_at_ns=time.time_ns(),
            model=model if isinstance(model, str) else "agent",
            traceparent=traceparent,
        )

    def is_of(self, user: User | None) -> bool:
        """Whether that user began the run."""
        return hmac.compare_digest(self.user, user_hash(user))

    @property
    def thread(self) -> str:
        """Under which the log knows its thread."""
        return thread_of(self.thread_id, self.user)

    def envelope(self) -> Envelope:
        """What its wire wants written."""
        return Envelope(
            run_id=self.run_id,
            thread_id=self.thread_id,
            message_id=self.message_id,
            model=self.model,
            created_s=self.started_at_ns // 1_000_000_000,
        )


def encode_meta(meta: RunMeta) -> bytes:
    """As the log keeps it."""
    return msgspec.json.encode(meta)


def decode_meta(data: bytes) -> RunMeta:
    """Raises LogError for what no producer of ours wrote."""
    try:
        return msgspec.json.decode(data, type=RunMeta)
    except msgspec.DecodeError:
        raise LogError("the log holds a run that was not begun by streamtrace.serve") from None


def key_of(run_id: str, user: User | None) -> RunKey:
    """Where the log has the run of that user."""
    return RunKey(run_id, None if user is None else user.tenant)


def thread_of(thread_id: str, user: str) -> str:
    """Threads are those of a user, by `user_hash`: nobody begins a run in that of another."""
    return f"{user}:{thread_id}"


def user_hash(user: User | None) -> str:
    """One for each user of each tenant, and one for all who have no name."""
    return caller_key(user, None, by_address=False)
