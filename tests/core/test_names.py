"""The names that leave the process, against the installed semantic conventions."""

from __future__ import annotations

import importlib
import pkgutil

import opentelemetry.semconv._incubating.attributes as incubating
import pytest
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes

from streamtrace.core import names

NEWER_THAN_THE_PACKAGE = {
    # the conventions renamed cache_creation to cache_write after the package was cut from them
    "gen_ai.usage.cache_write.input_tokens": "gen_ai.usage.cache_creation.input_tokens",
}
"""Names that the package does not have (yet), with the name that it has instead."""

ATTRIBUTES = {
    constant: value
    for constant, value in vars(names).items()
    if constant.isupper() and isinstance(value, str) and not constant.startswith("EVENT_")
}
for table in ("REQUEST_PARAMETERS", "CONTENT_CHARS"):
    ATTRIBUTES |= {f"{table}[{key}]": value for key, value in getattr(names, table).items()}
EVENTS = {
    constant: value
    for constant, value in vars(names).items()
    if constant.startswith("EVENT_") and isinstance(value, str)
}


def known_to_opentelemetry() -> set[str]:
    """Every attribute of the installed conventions, stable or not."""
    known = set()
    for module in pkgutil.iter_modules(incubating.__path__):
        attributes = importlib.import_module(f"{incubating.__name__}.{module.name}")
        known |= {value for value in vars(attributes).values() if isinstance(value, str)}
    return known


KNOWN = known_to_opentelemetry()


@pytest.mark.parametrize("name", sorted(set(ATTRIBUTES.values())))
def test_a_name_is_of_the_conventions_or_has_our_prefix(name):
    """A name that is neither would be a typing error, or would squat on somebody's namespace."""
    if name.startswith("streamtrace."):
        assert name not in KNOWN
    else:
        assert NEWER_THAN_THE_PACKAGE.get(name, name) in KNOWN


@pytest.mark.parametrize("newer", sorted(NEWER_THAN_THE_PACKAGE))
def test_an_exception_is_still_needed(newer):
    """When the package catches up, the exception goes."""
    generative = {value for value in vars(gen_ai_attributes).values() if isinstance(value, str)}

    assert newer in ATTRIBUTES.values()
    assert newer not in generative


def test_no_two_constants_share_a_name():
    """Attributes among themselves, and events among themselves."""
    for table in (ATTRIBUTES, EVENTS):
        assert len(set(table.values())) == len(table)


def test_events_have_our_prefix():
    """`gen_ai.content.completion` and its like overwrite the output in Langfuse."""
    assert EVENTS
    assert all(value.startswith("streamtrace.") for value in EVENTS.values())


def test_gap_buckets_rise():
    """Bounds of a histogram: ascending, from milliseconds to half a minute."""
    edges = names.GAP_BUCKETS_S

    assert list(edges) == sorted(set(edges))
    assert edges[0] <= 0.001
    assert edges[-1] >= 30.0
    assert len(edges) <= 20
