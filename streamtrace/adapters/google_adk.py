"""Google's Agent Development Kit: the events of `runner.run_async` and `runner.run`.

Rules that hold here (`google-adk` 2.13):

* Events are written as ADK's own server writes them, without its internal metadata.
* Credentials stand in events as they are, secrets and all. What asks a user to sign in needs the
  address and the like: of a credential only the names below are told, whatever else comes.
* What is raised is told as the server does, so that open steps and turns end before it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from streamtrace.adapters.base import Reader, adapter, frame_of
from streamtrace.core import events as ev
from streamtrace.core.jsonio import as_object
from streamtrace.dialects.gemini_parts import camel
from streamtrace.dialects.google_adk import GoogleAdk

_INTERNAL = "__adk_internal_"
_CREDENTIALS = frozenset(("rawAuthCredential", "exchangedAuthCredential"))
_PUBLIC = frozenset(
    (
        *("authType", "resourceRef", "oauth2", "clientId", "authUri", "redirectUri", "state"),
        *("nonce", "audience", "prompt", "codeChallengeMethod", "http", "scheme"),
    )
)
"""What may be told of a credential, at any depth inside it."""


class _EventReader(Reader):
    def read(self, item: Any) -> Iterable[ev.Event]:
        wire = item.model_dump(mode="json", by_alias=True, exclude_none=True, warnings=False)
        metadata = as_object(wire.pop("customMetadata", None))
        told = {key: value for key, value in metadata.items() if not key.startswith(_INTERNAL)}
        if told:
            wire["customMetadata"] = told
        return self.decoder.decode(frame_of(_without_secrets(wire)))

    def fail(self, error: Exception) -> Iterable[ev.Event]:
        kind, message = type(error).__name__, str(error)
        details = {"errorType": kind, "errorMessage": message}
        return self.decoder.decode(frame_of({"error": kind, "errorDetails": details}))


def _without_secrets(value: Any, *, is_credential: bool = False) -> Any:
    if isinstance(value, list):
        return [_without_secrets(one, is_credential=is_credential) for one in value]
    if not isinstance(value, dict):
        return value
    is_credential = is_credential or not {"authType", "auth_type"}.isdisjoint(value)
    told = {}
    for key, inner in value.items():
        name = next(iter(camel({key: True})))
        if not is_credential or name in _PUBLIC:
            is_inside = is_credential or name in _CREDENTIALS
            told[key] = _without_secrets(inner, is_credential=is_inside)
    return told


@adapter
def google_adk_events() -> Reader:
    """Events of `runner.run_async(...)` or `runner.run(...)`, with or without streaming."""
    return _EventReader(GoogleAdk().decoder())
