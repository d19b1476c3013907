"""A2A 0.3 over JSON-RPC: the objects of 1.0, each named by its `kind`.

Rules that hold here (as a2a-sdk 1.3.0 sends it with `enable_v0_3_compat`, and a2a-sdk 0.3 did):

* `result` is the object itself; states are words such as `input-required`; a part has a `kind`.
* All else is as in `a2a`: `final` as well, since REST of 0.3 is read there.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from streamtrace.core.frames import Frame
from streamtrace.core.jsonio import as_object
from streamtrace.dialects.a2a import A2A, NOT_HOT, A2ADecoder, HotUpdate, error_fit
from streamtrace.dialects.base import Decoder, Dialect, Fit, Head, marks

_KINDS = {
    "artifact-update": "artifactUpdate",
    "status-update": "statusUpdate",
    "task": "task",
    "message": "message",
}
_METHODS = ("message/stream", "tasks/resubscribe")


class A2A03(Dialect):
    """Agent2Agent 0.3."""

    name = "a2a-0.3"
    marks = marks("jsonrpc")
    says = A2A.says

    def recognise(self, head: Head, frame: Frame) -> Fit:
        """Sure of a result with one of the kinds; an error alone may be any other's."""
        value = as_object(frame.json())
        if value.get("jsonrpc") != "2.0":
            return Fit.NO
        kind = as_object(value.get("result")).get("kind")
        if isinstance(kind, str) and kind in _KINDS:
            return Fit.YES
        return error_fit(head, frame, _METHODS)

    def decoder(self) -> Decoder:
        """A decoder for one stream."""
        return _A2A03Decoder()


class _HotResult(HotUpdate, kw_only=True, gc=False):
    kind: Literal["artifact-update"]


class _HotFrame(msgspec.Struct, gc=False):
    result: _HotResult
    error: Any = None


_hot_decoder = msgspec.json.Decoder(_HotFrame)


class _A2A03Decoder(A2ADecoder):
    def hot(self, data: bytes) -> HotUpdate | None:
        try:
            frame = _hot_decoder.decode(data)
        except NOT_HOT:
            return None
        return frame.result if frame.error is None else None

    def body(self, value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        result = as_object(value.get("result"))
        kind = result.get("kind")
        return (_KINDS.get(kind, kind), result) if isinstance(kind, str) else ("unknown", value)
