"""Guards: what is hidden is hidden however the text is cut, and what is harmless is told."""

from __future__ import annotations

from functools import partial
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.laws import held_bytes

from streamtrace.core.errors import ConfigError
from streamtrace.serve.guard_json import JsonCallGuard
from streamtrace.serve.guard_react import ReActGuard
from streamtrace.serve.guard_tags import TagGuard
from streamtrace.serve.guards import Guards, Mark

I, F = Mark.INTERMEDIATE, Mark.FINAL  # noqa: E741
CALL = '{"name": "search", "arguments": {"q": "a } b"}}'
JSON = '{"temperature": 21, "unit": "C"}'
FENCED = f"```json\n{CALL}\n```"

KINDS = {
    "tags": TagGuard,
    "tags, opened": partial(TagGuard, opened="think"),
    "react": ReActGuard,
    "react, opened": partial(ReActGuard, opened=True),
    "json": partial(JsonCallGuard, max_held_chars=1024),
}
FRAGMENTS = [
    *("<", "<t", "<think", "<think>", "</", "</think", "</think>", "</think >", "<THINK a>"),
    *("<tool_call>", "</tool_call>", "<thinker>", ">", "a", "é", "🙂", " ", "\n", "\r\n", "\t"),
    *("Thought", "Thought:", "Action", "Action:", " Input:", "Action 1:", "Observation:", "final "),
    *("Final Answer:", "**Final Answer:**", "*", "**", "# ", "1", ":", "：", "word "),
    *("{", "}", "[", "]", '"', "'", '"name"', ":", ", ", '"tool"', '"arguments"', "\\", '\\"', "`"),
    *("```", "```json\n", "\n```", CALL, JSON, FENCED, f"[{CALL}, {CALL}]", '{"tool_calls": [1]}'),
    *("{'tool': 'x', 'args': {}}", '{"name": "a\nb", "args": {},}', "x" * 300, " " * 70),
]  # fmt: skip

texts = st.lists(st.sampled_from(FRAGMENTS), max_size=25).map("".join)


def pieces_of(text: str, places: list[int]) -> list[str]:
    edges = [0, *sorted(place % (len(text) + 1) for place in places), len(text)]
    return [text[start:end] for start, end in pairwise(edges)]


def told(guard, pieces: list[str]) -> list[str | Mark]:
    """What it tells, with text between marks as one."""
    raw = [one for piece in pieces for one in guard.feed(piece)]
    whole: list[str | Mark] = []
    for one in [*raw, *guard.end()]:
        if isinstance(one, str) and whole and isinstance(whole[-1], str):
            whole[-1] += one
        elif one:
            whole.append(one)
    return whole


def shown(guard, text: str) -> str:
    return "".join(one for one in told(guard, [text]) if isinstance(one, str))


# --- laws ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts, places=st.lists(st.integers(0, 10**4), max_size=12))
def test_cuts_change_nothing(kind, text, places):
    whole = told(KINDS[kind](), [text])
    assert told(KINDS[kind](), list(text)) == whole
    assert told(KINDS[kind](), pieces_of(text, places)) == whole


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(text=texts, places=st.lists(st.integers(0, 10**4), max_size=12))
def test_cuts_change_nothing_where_guards_stand_behind_one_another(text, places):
    def all_of_them() -> Guards:
        return Guards([TagGuard(), ReActGuard(), JsonCallGuard(1024)])

    whole = told(all_of_them(), [text])
    assert told(all_of_them(), list(text)) == whole
    assert told(all_of_them(), pieces_of(text, places)) == whole


@pytest.mark.parametrize("kind", KINDS)
@given(text=texts, more=texts)
def test_a_guard_that_ended_begins_anew(kind, text, more):
    used = KINDS[kind]()
    told(used, [text])
    fresh = KINDS[kind.removesuffix(", opened")]()
    assert told(used, [more]) == told(fresh, [more])


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None)
@given(text=texts)
def test_text_is_only_left_out(kind, text):
    """What is shown stands in the text, in that order: nothing is made up."""
    rest = iter(text)
    assert all(char in rest for char in shown(KINDS[kind](), text))


@pytest.mark.parametrize("kind", ["tags", "react", "json"])
@given(text=st.text("bc xyz.,;!?()=+-/é日🙂\n", max_size=200))
def test_plain_text_is_told_at_once(kind, text):
    """All of it, before its end is known."""
    assert "".join(KINDS[kind]().feed("1. " + text)) == "1. " + text


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
@given(fragments=st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=3))
def test_what_is_held_is_bounded(kind, fragments):
    guard = KINDS[kind]()
    fixed = held_bytes(guard)
    for _ in range(600):
        for fragment in fragments:
            for _ in guard.feed(fragment):
                pass
        assert held_bytes(guard) - fixed < 16_000


# --- beginnings ------------------------------------------------------------------------------

MARKERS = [
    ("tags", "<think>"),
    ("tags", "<tool_call "),
    ("tags", "</think>"),
    ("react", "Thought:"),
    ("react", "**Action 12 Input:"),
    ("react", "### Final Answer:"),
    ("json", '{"name":'),
    ("json", '[ {\n "tool_calls" :'),
    ("json", "```json\n{'tool':"),
]


@pytest.mark.parametrize(("kind", "marker"), MARKERS)
def test_no_part_of_a_marker_is_told_before_it_is_known_to_be_none(kind, marker):
    """And if it never becomes one, it is told."""
    for size in range(1, len(marker)):
        guard = KINDS[kind]()
        assert "".join(guard.feed("text\n" + marker[:size])) == "text\n"
        other = "\n§" if kind == "json" else "§"
        assert "".join(guard.feed(other)) == marker[:size] + other
        assert shown(KINDS[kind](), marker[:size]) == marker[:size]


# --- what each hides -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("<think>hm</think>Hello", ["Hello"]),
        ("a<think>1</think>b<Thinking x='1'>2</THINKING >c", ["abc"]),
        ("a <b>bold</b> < c <thinker> <think/>", ["a <b>bold</b> < c <thinker> <think/>"]),
        ("x<tool_call>{}</tool_call>y", ["x", I, "y"]),
        ("thoughts</think>Hello", ["thoughts", I, "Hello"]),
        ("a<think>never closed </thin", ["a"]),
        ("<think>a<think>b</think>c", ["c"]),
        ("a<think>b</tool_call></thinking></think>c", ["ac"]),
        ("if a<think", ["if a<think"]),
    ],
)
def test_tags(text, pieces):
    assert told(TagGuard(), [text]) == told(TagGuard(), list(text)) == pieces


def test_tags_of_your_own():
    guard = TagGuard(hidden=["note"], calls=["function=search"[:8]], opened="NOTE")
    assert told(guard, ["inside</note>out<function>x</function><think>"]) == ["out", I, "<think>"]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("Just an answer: 42\nReally.", ["Just an answer: 42\nReally."]),
        ("Thought: hm\nAction: x\nAction Input: {}\n", [I, I, I]),
        ("Thought: I know\nFinal Answer: 42\nor so", [I, F, "42\nor so"]),
        ("Sure.\nthought : hm\n**Final Answer:** **42**", ["Sure.\n", I, F, "**42**"]),
        ("Thought 1: a\n\nObservation 1: b\nfinal answer:\n\n42", [I, I, F, "42"]),
        ("Thoughts: none\nActions\n  Act", ["Thoughts: none\nActions\n  Act"]),
        ("my Action: none", ["my Action: none"]),
        ("* Action: a bullet", ["* Action: a bullet"]),
        ("Final Answer: a\nObservation: b\nFinal Answer: c", [F, "a\n", I, F, "c"]),
        ("Final Answer:\n  Thought: hm", [F, I]),
        ("Final", ["Final"]),
        ("2 * 3\n# Head\n***\n1.", ["2 * 3\n# Head\n***\n1."]),
    ],
)
def test_react(text, pieces):
    assert told(ReActGuard(), [text]) == told(ReActGuard(), list(text)) == pieces


def test_react_that_begins_in_a_thought():
    """The prompt ends with `Thought:`."""
    assert told(ReActGuard(opened=True), [" I know\nFinal Answer: 42"]) == [F, "42"]
    assert told(ReActGuard(hidden=["Мысль"], shown=["Ответ"]), ["Мысль: а\nОтвет: б"]) == [
        I,
        F,
        "б",
    ]


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (f"a {CALL} b", ["a ", I, " b"]),
        (f"Let me.\n{FENCED}\nDone", ["Let me.\n", I, "\nDone"]),
        (f"```\n[{CALL},\n{CALL}]\n```", [I]),
        (f"```python\n{CALL}\n```", [I]),
        (JSON, [JSON]),
        (f"```json\n{JSON}\n```!", [f"```json\n{JSON}\n```!"]),
        ('{"tool": "x", "input": 1}', [I]),
        ('{"action": "x", "action_input": "y"}', [I]),
        ('{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}', [I]),
        ('{"role": "assistant", "tool_calls": [{}]}', [I]),
        ('{"role": "assistant", "tool_calls": []}', ['{"role": "assistant", "tool_calls": []}']),
        ('{"name": "Ada", "age": 36}', ['{"name": "Ada", "age": 36}']),
        ('{"name": {"first": "Ada"}, "args": 1}', ['{"name": {"first": "Ada"}, "args": 1}']),
        (f'[{JSON}, {{"a": 1}}]', [f'[{JSON}, {{"a": 1}}]']),
        ("{'name': 'it\"s', 'args': {'q': '}'}} b", [I, " b"]),
        ('{"name": "a\nline", "arguments": {"q": 1,},} b', [I, " b"]),
        ('{"name": "f", "arguments": {"q": "never cl', [I]),
        ('{"key": "never cl', ['{"key": "never cl']),
        ('set {a} and { b } or {"c"} or [1]', ['set {a} and { b } or {"c"} or [1]']),
        ("```js\nlet a = {b: 1}\n```", ["```js\nlet a = {b: 1}\n```"]),
        ('{"name": "f", "args": it\'s} b', [I, " b"]),
        ('{"name": "f\\"}", "args": "\\\\"} b', [I, " b"]),
    ],
)
def test_json(text, pieces):
    assert told(JsonCallGuard(), [text]) == told(JsonCallGuard(), list(text)) == pieces


def test_json_that_is_too_long_to_be_held_is_judged_by_its_keys():
    filler = '"x", ' * 400
    call = f'{{"name": "f", "arguments": [{filler} {{"name": 1}}]}}'
    answer = f'{{"list": [{filler} "end"]}}'
    guard = partial(JsonCallGuard, max_held_chars=1024)
    assert told(guard(), [f"a{call}b"]) == ["a", I, "b"]
    assert told(guard(), [f"```\n{call}\n```b"]) == [I, "b"]
    assert told(guard(), [f"a{answer}b"]) == [f"a{answer}b"]
    assert told(guard(), [call[:1500]]) == [I]


# --- one behind the other --------------------------------------------------------------------


def test_what_one_hides_the_next_does_not_see():
    guards = Guards([TagGuard(), ReActGuard()])
    text = "<think>Final Answer: not yet\n</think>Thought: hm\n<think>a</think>Final Answer: 42"
    assert told(guards, [text]) == [I, F, "42"]


def test_text_before_a_mark_is_never_told_after_it():
    guards = Guards([TagGuard(), ReActGuard(), JsonCallGuard()])
    assert told(guards, ["Act<tool_call>x</tool_call>ion: run"]) == ["Act", I, "ion: run"]
    assert told(guards, ['{"a": [<tool_call>x</tool_call>']) == ['{"a": [', I]


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: TagGuard(hidden=["<think>"]), "not .*<think>"),
        (lambda: TagGuard(hidden=[], calls=[]), "tags have names"),
        (lambda: TagGuard(opened="x"), "opened is one of .*not 'x'"),
        (lambda: ReActGuard(hidden=["Step 1"]), "markers are a few words .*not 'Step 1'"),
        (lambda: ReActGuard(shown=[""]), "not ''"),
        (lambda: JsonCallGuard(10), "at least 1024, got 10"),
    ],
)
def test_what_they_cannot_be_made_with(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make()
