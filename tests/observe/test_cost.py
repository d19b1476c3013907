"""What runs cost: prices that are known, and nothing where they are not."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import genai_prices
import pytest
from genai_prices import data_snapshot
from hypothesis import given
from hypothesis import strategies as st
from support import summaries

from streamtrace.core.errors import ConfigError
from streamtrace.core.summary import ModelUsage, TokenCounts
from streamtrace.observe import cost
from streamtrace.observe.cost import Price, Pricing

AT = datetime(2026, 11, 20, tzinfo=UTC)
USAGE = TokenCounts(input_tokens=1_000_000, output_tokens=1_000_000)
MINE = {"mine": Price(input=2, output=10)}


def tokens(given: int | None, out: int | None, **more: int) -> TokenCounts:
    return TokenCounts(input_tokens=given, output_tokens=out, **more)


@pytest.mark.parametrize(
    ("model", "provider", "library_provider"),
    [
        ("gpt-4o", "openai", "openai"),
        ("gpt-4o", None, "openai"),
        ("gpt-4o", "azure.ai.openai", "azure"),
        ("claude-sonnet-4-5-20250929", "anthropic", "anthropic"),
        ("claude-sonnet-4-5-20250929", "aws.bedrock", "aws"),
        ("gemini-2.5-pro", "gcp.gemini", "google"),
        ("gemini-2.5-pro", "gcp.vertex_ai", "google"),
        ("mistral-large-latest", "mistral_ai", "mistral"),
        ("grok-4", "x_ai", "x-ai"),
        ("deepseek-chat", "deepseek", "deepseek"),
    ],
)
def test_a_known_model_costs_what_the_price_list_says(
    model: str, provider: str | None, library_provider: str
) -> None:
    usage = tokens(5000, 700, cached_input_tokens=1200)
    listed = genai_prices.calc_price(
        genai_prices.Usage(input_tokens=5000, output_tokens=700, cache_read_tokens=1200),
        model,
        provider_id=library_provider,
        genai_request_timestamp=AT,
    )
    price = Pricing().price(usage, model, provider, AT)
    assert price == pytest.approx(float(listed.total_price))
    assert price
    assert price > 0


@pytest.mark.parametrize("provider", cost._PROVIDER_IDS)
def test_every_provider_that_we_rename_is_in_the_price_list(provider: str) -> None:
    ids = {one.id for one in data_snapshot.get_snapshot().providers}
    assert cost._PROVIDER_IDS[provider] in ids


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        (None, "openai"),
        ("", "openai"),
        ("nonesuch", "openai"),
        ("nonesuch", None),
        ("gpt-4o", "a-proxy-of-somebody"),
        ("gpt-4o", ""),
        ("g" * 100_000, "openai"),
    ],
)
def test_what_is_not_listed_has_no_price(model: str | None, provider: str | None) -> None:
    assert Pricing().price(USAGE, model, provider) is None


@pytest.mark.parametrize(
    "usage",
    [
        tokens(None, None),
        tokens(None, 5),
        tokens(5, None),
        tokens(-1, 5),
        tokens(5, -1),
        tokens(5, 5, cached_input_tokens=6),
        tokens(5, 5, cached_input_tokens=3, cache_write_tokens=3),
        tokens(5, 5, cached_input_tokens=-1),
        tokens(10**12, 5),
        tokens(5, 10**400),
    ],
)
@pytest.mark.parametrize("model", ["gpt-4o", "mine"])
def test_counts_that_are_unknown_or_cannot_be_true_have_no_price(
    usage: TokenCounts, model: str
) -> None:
    assert Pricing(MINE).price(usage, model, "openai") is None


def test_an_override_comes_before_the_price_list() -> None:
    pricing = Pricing({"GPT-4o": Price(input=1, output=2, cached=0.5, cache_write=4)})
    usage = tokens(1000, 100, cached_input_tokens=200, cache_write_tokens=300)
    expected = (500 * 1 + 200 * 0.5 + 300 * 4 + 100 * 2) / 1e6
    assert pricing.price(usage, "gpt-4o", "openai") == pytest.approx(expected)
    assert Pricing().price(usage, "gpt-4o", "openai") != pytest.approx(expected)


def test_cached_input_costs_as_much_as_other_input_if_no_price_is_given() -> None:
    usage = tokens(1000, 100, cached_input_tokens=200, cache_write_tokens=300)
    assert Pricing(MINE).price(usage, "mine", None) == pytest.approx((1000 * 2 + 100 * 10) / 1e6)


@pytest.mark.parametrize("wrong", [-1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("field", ["input", "output", "cached", "cache_write"])
def test_a_wrong_price_is_told_at_construction(field: str, wrong: float) -> None:
    fields: dict[str, Any] = {"input": 1.0, "output": 1.0, field: wrong}
    with pytest.raises(ConfigError, match="the price of mine"):
        Pricing({"mine": Price(**fields)})


counts = st.none() | st.integers(-5, 10**31)


@given(
    usage=st.builds(
        TokenCounts,
        input_tokens=counts,
        output_tokens=counts,
        cached_input_tokens=counts,
        cache_write_tokens=counts,
    ),
    model=st.sampled_from(["gpt-4o", "claude-sonnet-4-5", "mine", "nonesuch"]) | st.text(),
    provider=st.sampled_from([None, "openai", "anthropic"]) | st.text(),
)
def test_no_price_is_negative_whatever_a_stream_says(
    usage: TokenCounts, model: str, provider: str | None
) -> None:
    price = PRICING.price(usage, model, provider)
    assert price is None or 0 <= price < 1e9


PRICING = Pricing(MINE)

LISTED = ["gpt-4o", "gpt-5.4", "claude-sonnet-4-5", "gemini-2.5-pro", "deepseek-chat", "grok-4.20"]
"""With prices of one kind, in steps of input, and at some hours only."""


@st.composite
def plausible(draw: st.DrawFn) -> TokenCounts:
    """Counts that can be true together, known or not."""
    given = draw(st.integers(0, 1_000_000) | st.sampled_from([128_000, 200_000, 200_001]))
    cached = draw(st.none() | st.integers(0, given))
    written = draw(st.none() | st.integers(0, given - (cached or 0)))
    made = draw(st.integers(0, 10_000_000))
    return TokenCounts(
        input_tokens=given,
        output_tokens=made,
        cached_input_tokens=cached,
        cache_write_tokens=written,
    )


@given(model=st.sampled_from(LISTED), usage=plausible(), hour=st.integers(0, 23))
def test_a_price_is_that_of_the_list_to_the_last_digit(
    model: str, usage: TokenCounts, hour: int
) -> None:
    at = datetime(2025, 6, 1, hour, 20, tzinfo=UTC)
    counts = genai_prices.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens,
    )
    found = PRICING._find(model, None)
    assert found is not None
    try:
        listed = found._model.calc_price(counts, found._provider, genai_request_timestamp=at)
    except (ValueError, LookupError):
        assert PRICING.price(usage, model, None, at) is None
    else:
        assert PRICING.price(usage, model, None, at) == float(listed.total_price)


@pytest.mark.parametrize("model", LISTED)
def test_the_list_is_not_asked_again_for_what_it_said(
    model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pricing = Pricing()
    first = pricing.price(tokens(1000, 10), model, None, AT)
    monkeypatch.setattr(cost._Listed, "_ask", lambda *_: pytest.fail("it was asked again"))
    for number in range(20):
        assert pricing.price(tokens(1000 + number, 10 + number), model, None, AT)
    assert pricing.price(tokens(1000, 10), model, None, AT) == first


def test_a_list_that_does_not_add_up_is_asked_every_time(monkeypatch: pytest.MonkeyPatch) -> None:
    pricing = Pricing()
    monkeypatch.setattr(
        cost._Listed, "_ask", lambda _, counts, at: Decimal(counts[0] ** 2 + counts[3] ** 2)
    )
    assert pricing.price(tokens(10, 5), "gpt-4o", None, AT) == 125
    assert pricing.price(tokens(20, 5), "gpt-4o", None, AT) == 425


# --- a whole run ---------------------------------------------------------------------------------


def test_a_run_and_its_generations_get_their_costs() -> None:
    run = summaries.completed_run(cost_usd=None)
    for one in (*run.generations, *run.usage_by_model):
        one.cost_usd = None
    Pricing().apply(run)
    each = [one.cost_usd for one in run.generations]
    assert all(each)
    assert run.cost_usd == pytest.approx(sum(cost_usd or 0 for cost_usd in each))


def test_a_run_with_a_part_that_has_no_price_has_none_but_its_generations_have() -> None:
    run = summaries.completed_run(cost_usd=None)
    run.generations = [
        summaries.generation(model=model, cost_usd=None) for model in ("gpt-4o", "nonesuch")
    ]
    run.usage_by_model = [
        ModelUsage(model=one.model, provider=one.provider, usage=one.usage or TokenCounts())
        for one in run.generations
    ]
    Pricing().apply(run)
    assert run.cost_usd is None
    assert [one.cost_usd is None for one in run.generations] == [False, True]


def test_a_run_without_usage_has_no_cost() -> None:
    run = summaries.disconnected_run()
    Pricing().apply(run)
    assert run.cost_usd is None
    assert run.generations[0].cost_usd is None


def test_a_cost_that_the_stream_told_stays() -> None:
    run = summaries.completed_run(cost_usd=7.5)
    run.generations[0].cost_usd = 7.0
    Pricing().apply(run)
    assert (run.cost_usd, run.generations[0].cost_usd) == (7.5, 7.0)


def test_prices_are_those_of_the_day_of_the_run() -> None:
    """deepseek-chat had cheaper hours in 2025 and has not now."""
    prices = set()
    for hour in range(24):
        at = datetime(2025, 6, 1, hour, tzinfo=UTC)
        run = summaries.completed_run(started_at_ns=int(at.timestamp()) * 10**9, cost_usd=None)
        run.usage_by_model = [ModelUsage(model="deepseek-chat", provider="deepseek", usage=USAGE)]
        Pricing().apply(run)
        prices.add(run.cost_usd)
    assert len(prices) == 2


# --- bounds --------------------------------------------------------------------------------------


def test_names_that_strangers_choose_do_not_fill_the_memory() -> None:
    pricing = Pricing()
    snapshot = data_snapshot.get_snapshot()
    before = len(snapshot._lookup_cache), len(snapshot._provider_misses)
    for number in range(3 * cost.MAX_MODELS):
        assert pricing.price(USAGE, f"model-{number}", None) is None
    assert pricing._find.cache_info().currsize == cost.MAX_MODELS
    assert before == (len(snapshot._lookup_cache), len(snapshot._provider_misses))


def test_an_unknown_model_is_looked_up_once() -> None:
    pricing = Pricing()
    for _ in range(10):
        pricing.price(USAGE, "nonesuch", "openai")
    assert pricing._find.cache_info().misses == 1


def test_prices_that_the_app_updates_are_taken() -> None:
    pricing = Pricing()
    before = pricing.price(USAGE, "gpt-4o", "openai")
    old = data_snapshot.get_snapshot()
    data_snapshot.set_custom_snapshot(data_snapshot.DataSnapshot([], from_auto_update=True))
    try:
        assert pricing.price(USAGE, "gpt-4o", "openai") is None
    finally:
        data_snapshot.set_custom_snapshot(None)
    assert data_snapshot.get_snapshot() is old
    assert pricing.price(USAGE, "gpt-4o", "openai") == before


def test_prices_need_no_network_and_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    threads = threading.active_count()
    pricing = Pricing()
    pricing.load()
    assert pricing.price(USAGE, "gpt-4o", "openai")
    assert threading.active_count() == threads


def test_the_price_list_is_only_imported_when_it_is_needed() -> None:
    code = """
import sys
from streamtrace.observe.cost import Price, Pricing
from streamtrace.core.summary import TokenCounts
usage = TokenCounts(input_tokens=10, output_tokens=10)
pricing = Pricing({"mine": Price(input=1, output=1)})
assert pricing.price(usage, "mine", None) == 2e-05
assert "genai_prices" not in sys.modules
pricing.load()
assert "genai_prices" in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_the_price_list_only_overrides_have_a_price() -> None:
    code = """
import sys
sys.modules["genai_prices"] = None
from streamtrace.observe.cost import Price, Pricing
from streamtrace.core.summary import TokenCounts
usage = TokenCounts(input_tokens=10, output_tokens=10)
pricing = Pricing({"mine": Price(input=1, output=1)})
pricing.load()
assert pricing.price(usage, "mine", None) == 2e-05
assert pricing.price(usage, "gpt-4o", "openai") is None
"""
    subprocess.run([sys.executable, "-c", code], check=True)
