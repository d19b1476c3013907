"""The dashboard Tools and cost: what tools and models are called, how well, and for how much."""

from __future__ import annotations

from typing import Any

from dashboards.source.parts import GREEN, ORANGE, RED, lines, number, page, rows
from dashboards.source.queries import or_zero, quantile, rate, ratio, total
from streamtrace.core import metrics as m

_ENDED = "completed|error"
_UNFINISHED = "started|ready"

_ALL_STREAMS = total(m.STREAMS, route=".+", dialect=".+")
_HOUR_S = 3600

FIGURES = [
    number(
        "Cost",
        "currencyUSD",
        "List price of the tokens in the time that is shown, of models whose price is known. See"
        " 'Cost per hour, by model' for who causes it.",
        total(m.COST),
        decimals=2,
    ),
    number(
        "Cost of 1,000 streams",
        "currencyUSD",
        "What a thousand streams cost on average. A rise with the same models is longer prompts or"
        " more turns: look at the tokens per stream.",
        f"1000 * {ratio(total(m.COST), _ALL_STREAMS)}",
        decimals=2,
    ),
    number(
        "Output tokens",
        "short",
        "Tokens that models wrote in the time that is shown, as streams told them; streams that"
        " are cut often do not tell. When it grows and the streams do not, answers get longer:"
        " limit them.",
        total(m.TOKENS, type="output"),
    ),
    number(
        "Input read from caches",
        "percentunit",
        "Share of input tokens that providers took from a prompt cache. A fall after a change of"
        " prompts means that their beginning is no longer stable: money and time are lost.",
        ratio(or_zero(total(m.TOKENS, type="cached_input")), total(m.TOKENS, type="input")),
        {None: ORANGE, 0.3: GREEN},
        decimals=0,
    ),
    number(
        "Tool calls",
        "short",
        "Tool calls seen in streams in the time that is shown. When it grows and the streams do"
        " not, agents call in loops: 'Calls, by tool' shows which tool, `max_steps` ends it.",
        total(m.TOOL_CALLS),
    ),
    number(
        "Tool calls that failed",
        "percentunit",
        "Among those whose result came through the stream. See 'Failed calls, by tool'.",
        ratio(or_zero(total(m.TOOL_CALLS, status="error")), total(m.TOOL_CALLS, status=_ENDED)),
        {None: GREEN, 0.05: ORANGE, 0.2: RED},
        decimals=1,
    ),
]

TOOLS = [
    lines(
        "Calls, by tool",
        "cps",
        "What the agents use. A tool that vanishes after a change of prompts was forgotten; one"
        " that explodes is called in a loop.",
        {"{{tool}}": rate(m.TOOL_CALLS, "tool")},
        stacked=True,
    ),
    lines(
        "Failed calls, by tool",
        "percentunit",
        "Share of calls with a result that is an error. Failing tools make models try again, which"
        " costs time and tokens: mend the tool, or tell the model when not to use it.",
        {
            "{{tool}}": ratio(
                rate(m.TOOL_CALLS, "tool", status="error"),
                rate(m.TOOL_CALLS, "tool", status=_ENDED),
            )
        },
        limits={0.2: RED},
    ),
    lines(
        "Duration, by tool (p95)",
        "s",
        "From complete arguments to the result. Users see nothing meanwhile: what takes seconds"
        " should tell them so, and have a time limit.",
        {"{{tool}}": quantile(0.95, m.TOOL_DURATION, "tool")},
    ),
    lines(
        "Calls without a result, by tool",
        "percentunit",
        "Their result never came through the stream. Always so where the client runs the tools, as"
        " with OpenAI chat; elsewhere a tool that hangs, or a run that was cut or waits for an"
        " answer: open its traces.",
        {
            "{{tool}}": ratio(
                rate(m.TOOL_CALLS, "tool", status=_UNFINISHED), rate(m.TOOL_CALLS, "tool")
            )
        },
    ),
    rows(
        "Tools",
        "All tools in the time that is shown. Sort by a column to find the slow, the failing and"
        " the chatty one.",
        {
            "calls": total(m.TOOL_CALLS, "tool"),
            "failed": total(m.TOOL_CALLS, "tool", status="error"),
            "mean": ratio(
                total(m.TOOL_DURATION, "tool", suffix="_sum"),
                total(m.TOOL_DURATION, "tool", suffix="_count"),
            ),
        },
        {"calls": "short", "failed": "short", "mean": "s"},
    ),
]

MODELS = [
    lines(
        "Cost per hour, by model",
        "currencyUSD",
        "List price at the pace of the moment. A model that appears here unexpectedly is a default"
        " somebody did not set.",
        {"{{model}}": f"{_HOUR_S} * {rate(m.COST, 'model')}"},
        stacked=True,
    ),
    lines(
        "Tokens, by type",
        "cps",
        "Tokens per second, as streams told them. `cached_input` is a part of `input`, `reasoning`"
        " a part of `output`. Input that grows faster than streams is history that is never cut.",
        {"{{type}}": rate(m.TOKENS, "type")},
    ),
    lines(
        "Output tokens, by model",
        "cps",
        "Who writes. After a switch of models the old one should fall to zero: if not, some caller"
        " still names it.",
        {"{{model}}": rate(m.TOKENS, "model", type="output")},
        stacked=True,
    ),
    lines(
        "Share of output that is reasoning, by model",
        "percentunit",
        "Reasoning is paid and not read. A rise with the same questions is an effort setting that"
        " changed.",
        {
            "{{model}}": ratio(
                rate(m.TOKENS, "model", type="reasoning"), rate(m.TOKENS, "model", type="output")
            )
        },
        most=1,
    ),
    rows(
        "Models",
        "All models in the time that is shown. A dear one with little output reads long prompts.",
        {
            "input": total(m.TOKENS, "model", type="input"),
            "from caches": total(m.TOKENS, "model", type="cached_input"),
            "output": total(m.TOKENS, "model", type="output"),
            "cost": total(m.COST, "model"),
        },
        {"input": "short", "from caches": "short", "output": "short", "cost": "currencyUSD"},
    ),
]


def build() -> dict[str, Any]:
    """The dashboard."""
    return page(
        "streamtrace-tools-cost",
        "streamtrace / Tools and cost",
        "What tools and models do inside streamed answers, and what they cost.",
        {"At a glance": FIGURES, "Tools": TOOLS, "Models, tokens and cost": MODELS},
        ("model",),
    )
