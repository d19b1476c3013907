"""What a run cost: list prices, from the data that `genai_prices` ships.

Rules that hold here:

* Nothing is fetched and no thread is made. Prices are as new as the installed package.
* An unknown model, provider, price or count is no price (`None`), never zero and never a guess.
* What strangers can name (models) is kept in bounded memory.
* `genai_prices` is imported by `load`, else with the first price that needs it (a quarter of a
  second). Without it, overrides still work.
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any

import msgspec

from streamtrace.core.errors import ConfigError
from streamtrace.core.metrics import MAX_TOKENS
from streamtrace.core.summary import RunSummary, TokenCounts

MAX_MODELS = 1024
MAX_MODEL_CHARS = 256

_PROVIDER_IDS = {
    "aws.bedrock": "aws",
    "azure.ai.inference": "azure",
    "azure.ai.openai": "azure",
    "gcp.gemini": "google",
    "gcp.gen_ai": "google",
    "gcp.vertex_ai": "google",
    "mistral_ai": "mistral",
    "moonshot_ai": "moonshotai",
    "x_ai": "x-ai",
}
"""Providers as the GenAI conventions name them, where `genai_prices` has another name."""


class Price(msgspec.Struct, frozen=True, kw_only=True):
    """US dollars per million tokens. Cached and cache-writing input costs `input` if not given."""

    input: float
    output: float
    cached: float | None = None
    cache_write: float | None = None


class Pricing:
    """Prices of models. `overrides` come first, by the model's name as the stream tells it."""

    def __init__(self, overrides: Mapping[str, Price] = MappingProxyType({})) -> None:
        for model, price in overrides.items():
            for amount in (price.input, price.output, price.cached, price.cache_write):
                if amount is not None and not (math.isfinite(amount) and amount >= 0):
                    raise ConfigError(f"the price of {model} must not be negative, got {price!r}")
        self._overrides = {model.lower(): price for model, price in overrides.items()}
        self._find = functools.lru_cache(MAX_MODELS)(_find)
        self._snapshot: Any = None

    def load(self) -> None:
        """Import the price list now, so that no run has to wait for it."""
        library = _library()
        if library is not None:
            library.data_snapshot.get_snapshot()

    def price(
        self,
        usage: TokenCounts,
        model: str | None,
        provider: str | None,
        at: datetime | None = None,
    ) -> float | None:
        """What these tokens of one call cost in US dollars; `None` if it is not known.

        Both input and output must be known. Without a provider the model's own maker is taken.
        """
        if model is None or not _plausible(usage):
            return None
        own = self._overrides.get(model.lower())
        return self._listed(usage, model, provider, at) if own is None else _cost(usage, own)

    def apply(self, summary: RunSummary) -> None:
        """Fill in what each generation, and the run, cost; what is set already stays.

        The run has a cost only if all the usage that it told has a price: a part of the cost would
        read as the whole. The generations keep their own.
        """
        started_s = summary.started_at_ns / 1e9
        at = datetime.fromtimestamp(started_s, UTC) if started_s else None  # a recording: today
        for one in summary.generations:
            if one.cost_usd is None and one.usage is not None:
                one.cost_usd = self.price(one.usage, one.model, one.provider, at)
        for entry in summary.usage_by_model:
            if entry.cost_usd is None:
                entry.cost_usd = self.price(entry.usage, entry.model, entry.provider, at)
        if summary.cost_usd is None and summary.usage_by_model:
            costs = [entry.cost_usd for entry in summary.usage_by_model]
            known = [cost for cost in costs if cost is not None]
            summary.cost_usd = math.fsum(known) if len(known) == len(costs) else None

    def _listed(
        self, usage: TokenCounts, model: str, provider: str | None, at: datetime | None
    ) -> float | None:
        library = _library()
        if library is None or len(model) > MAX_MODEL_CHARS:
            return None
        snapshot = library.data_snapshot.get_snapshot()
        if snapshot is not self._snapshot:  # the app updates the prices
            self._find.cache_clear()
            self._snapshot = snapshot
        found = self._find(model.lower(), provider)
        if found is None:
            return None
        listed, its_provider = found
        counts = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens,
        }
        try:
            result = listed.calc_price(
                library.Usage(**counts), its_provider, genai_request_timestamp=at
            )
        except (ValueError, LookupError):  # counts that contradict each other
            return None
        cost = float(result.total_price)
        return cost if math.isfinite(cost) and cost >= 0 else None


@functools.cache
def _library() -> Any:
    try:
        importlib.import_module("genai_prices.data_snapshot")
        return importlib.import_module("genai_prices")
    except ModuleNotFoundError:
        return None


def _find(model: str, provider: str | None) -> tuple[Any, Any] | None:
    """The listed model and its provider. The library's own look-up has caches without a bound."""
    snapshot = _library().data_snapshot.get_snapshot()
    if provider is None:
        found = next(
            (
                one
                for one in snapshot.providers
                if one.model_match and one.model_match.is_match(model)
            ),
            None,
        )
    else:
        provider_id = _PROVIDER_IDS.get(provider, provider)
        found = _library().data_snapshot.find_provider_by_id(snapshot.providers, provider_id)
    if found is None:
        return None
    listed = found.find_model(model, all_providers=snapshot.providers)
    return None if listed is None else (listed, found)


def _plausible(usage: TokenCounts) -> bool:
    """Whether input and output are known, and all counts can be true together."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return False
    cached, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    if min(usage.input_tokens, usage.output_tokens, cached, written) < 0:
        return False
    return cached + written <= usage.input_tokens <= MAX_TOKENS >= usage.output_tokens


def _cost(usage: TokenCounts, price: Price) -> float:
    cached, written = usage.cached_input_tokens or 0, usage.cache_write_tokens or 0
    fresh = (usage.input_tokens or 0) - cached - written
    dollars = (
        fresh * price.input
        + cached * (price.input if price.cached is None else price.cached)
        + written * (price.input if price.cache_write is None else price.cache_write)
        + (usage.output_tokens or 0) * price.output
    )
    return dollars / 1e6
