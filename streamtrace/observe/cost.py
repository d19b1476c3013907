"""What a run cost: list prices, from the data that `genai_prices` ships.

Rules that hold here:

* Nothing is fetched and no thread is made. Prices are as new as the installed package.
* An unknown model, provider, price or count is no price (`None`), never zero and never a guess.
* What strangers can name (models) is kept in bounded memory.
* The price list is asked once for the rates of a model, and not for each run: it takes 90 us.
* `genai_prices` is imported by `load`, else with the first price that needs it (a quarter of a
  second). Without it, overrides still work.
"""

from __future__ import annotations

import functools
import importlib
import math
from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
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
        listed = self._find(model.lower(), provider)
        total = None if listed is None else listed.total(usage, at or datetime.now(UTC))
        cost = math.nan if total is None else float(total)
        return cost if math.isfinite(cost) and cost >= 0 else None


class _Listed:
    """A model of the price list.

    What its tokens cost is a sum of counts times rates, which differ with the time, with how many
    tokens of input there are (its price may have steps), and with which counts are known. For each
    of these the list is asked for the rates, and once more whether they say the same as it does; if
    not, it is asked every time.
    """

    def __init__(self, model: Any, provider: Any) -> None:
        self._model = model
        self._provider = provider
        self._steps: dict[int, list[int]] = {}
        self._rates: dict[tuple[int, int, bool, bool], _Rates | None] = {}

    def total(self, usage: TokenCounts, at: datetime) -> Decimal | None:
        """In US dollars; `None` for counts that contradict each other."""
        counts = (
            usage.input_tokens or 0,
            usage.cached_input_tokens,
            usage.cache_write_tokens,
            usage.output_tokens or 0,
        )
        price = self._model.get_prices(at)  # one of a few that the list keeps
        steps = self._steps.get(id(price))
        if steps is None:
            steps = self._steps[id(price)] = _steps(price)
        step = bisect_left(steps, counts[0])
        key = (id(price), step, counts[1] is None, counts[2] is None)
        if counts[0] and key not in self._rates:
            self._rates[key] = self._ask_rates(counts, at)
        rates = self._rates.get(key)
        return self._ask(counts, at) if rates is None else _times(counts, rates)

    def _ask_rates(self, counts: _Counts, at: datetime) -> _Rates | None:
        given, cached, written, _ = counts
        no_cached, no_written = cached and 0, written and 0
        asked: list[_Counts] = [
            (given, no_cached, no_written, 0),
            (given, no_cached if cached is None else given, no_written, 0),
            (given, no_cached, no_written if written is None else given, 0),
            (given, no_cached, no_written, _MANY),
            (given, cached and given // 3, written and given // 4, _MANY - 1),
        ]
        totals = [total for one in asked if (total := self._ask(one, at)) is not None]
        if len(totals) < len(asked):
            return None
        fresh, of_cached, of_written, with_output, mixed = totals
        rates = (
            fresh / given,
            of_cached / given,
            of_written / given,
            (with_output - fresh) / _MANY,
        )
        return rates if _times(asked[-1], rates) == mixed else None

    def _ask(self, counts: _Counts, at: datetime) -> Decimal | None:
        given, cached, written, made = counts
        usage = _library().Usage(
            input_tokens=given,
            output_tokens=made,
            cache_read_tokens=cached,
            cache_write_tokens=written,
        )
        try:
            price = self._model.calc_price(usage, self._provider, genai_request_timestamp=at)
        except (ValueError, LookupError):
            return None
        total: Decimal = price.total_price
        return total


_Counts = tuple[int, int | None, int | None, int]
"""Of input, of this cached and cache-writing, and of output."""
_Rates = tuple[Decimal, Decimal, Decimal, Decimal]
"""US dollars per token of input that is new, cached, cache-writing, and of output."""
_MANY = 1_000_000


def _times(counts: _Counts, rates: _Rates) -> Decimal:
    given, cached, written, made = counts
    fresh = given - (cached or 0) - (written or 0)
    total = fresh * rates[0] + made * rates[3]
    if cached:
        total += cached * rates[1]
    return total + written * rates[2] if written else total


def _steps(price: Any) -> list[int]:
    """The counts of input tokens over which a price is another."""
    tiered = [value.tiers for value in vars(price).values() if hasattr(value, "tiers")]
    return sorted({tier.start for tiers in tiered for tier in tiers})


@functools.cache
def _library() -> Any:
    try:
        importlib.import_module("genai_prices.data_snapshot")
        return importlib.import_module("genai_prices")
    except ModuleNotFoundError:
        return None


def _find(model: str, provider: str | None) -> _Listed | None:
    """The listed model. The library's own look-up has caches without a bound."""
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
    return None if listed is None else _Listed(listed, found)


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
