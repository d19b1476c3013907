"""What apps put into the `messageMetadata` of Vercel's UI message stream: model and usage.

Rules that hold here:

* The metadata is the app's own. It is read at the paths that the user gives, else where it is
  common: `model` or `modelId`; `usage`, `totalUsage`, or counts on their own.
* Totals include their parts, as the SDK counts. A bare total says nothing of its parts, and is
  left alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from streamtrace.core.errors import ConfigError
from streamtrace.core.jsonio import MAX_ID_CHARS, as_count, as_id, as_string

Path: TypeAlias = tuple[str, ...]
Model: TypeAlias = tuple[str, str | None]
"""Name and provider."""
_Fields: TypeAlias = dict[str, Any]

COUNTS: Mapping[str, tuple[Path, ...]] = {
    field: tuple(tuple(path.split(".")) for path in paths.split())
    for field, paths in {
        "input_tokens": "inputTokens inputTokens.total promptTokens input_tokens prompt_tokens",
        "output_tokens": "outputTokens outputTokens.total completionTokens output_tokens "
        "completion_tokens",
        "cached_input_tokens": "inputTokenDetails.cacheReadTokens cachedInputTokens "
        "inputTokens.cacheRead cache_read_tokens prompt_tokens_details.cached_tokens "
        "input_tokens_details.cached_tokens",
        "cache_write_tokens": "inputTokenDetails.cacheWriteTokens inputTokens.cacheWrite "
        "cacheWriteInputTokens cache_write_tokens",
        "reasoning_tokens": "outputTokenDetails.reasoningTokens reasoningTokens "
        "outputTokens.reasoning completion_tokens_details.reasoning_tokens "
        "output_tokens_details.reasoning_tokens",
    }.items()
}
"""Where counts are: `ai` 7, 6 and 5, its providers, `ai` 4, and those who pass on what they got."""


class Counted(msgspec.Struct):
    """Token counts, what they count ("generation" or "run"), and whose they say they are."""

    scope: str
    counts: dict[str, int]
    model: Model | None


class MetadataReader:
    """Reads a model and token counts. Raises ConfigError for a path that is none."""

    def __init__(self, usage_path: str | None, model_path: str | None) -> None:
        self._usage_path = _path("usage_path", usage_path)
        self._model_path = _path("model_path", model_path)

    def model(self, metadata: _Fields) -> Model | None:
        """The model that is named here."""
        if self._model_path is None:
            return _model(metadata)
        name = as_id(_at(metadata, self._model_path))
        return None if name is None else (name, as_id(metadata.get("provider")))

    def usages(self, metadata: _Fields) -> list[Counted]:
        """All counts that are here; those of the run come last."""
        if self._usage_path is not None:
            places = [("generation", _at(metadata, self._usage_path))]
        elif "usage" in metadata or "totalUsage" in metadata:
            places = [("generation", metadata.get("usage")), ("run", metadata.get("totalUsage"))]
        else:  # the model beside them is that of the message
            places = [("generation", {**metadata, "model": None, "modelId": None})]
        return [
            Counted(scope, counts, _model(given))
            for scope, given in places
            if isinstance(given, dict) and (counts := _counts(given))
        ]


def _model(given: _Fields) -> Model | None:
    name = as_string(given.get("model")) or as_string(given.get("modelId"))
    return (name[:MAX_ID_CHARS], as_id(given.get("provider"))) if name else None


def _counts(given: _Fields) -> dict[str, int]:
    found: dict[str, int] = {}
    for field, paths in COUNTS.items():
        counts = (as_count(_at(given, path)) for path in paths)
        count = next((one for one in counts if one is not None), None)
        if count is not None:
            found[field] = count
    return found


def _at(value: Any, path: Path) -> Any:
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _path(name: str, value: object) -> Path | None:
    if value is None:
        return None
    if not isinstance(value, str) or not all(value.split(".")):
        raise ConfigError(f"{name} must be a dotted path such as 'custom.tokens', got {value!r}")
    return tuple(value.split("."))
