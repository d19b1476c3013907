"""What the fuzzer once found stays found, and it starts from every stream."""

from __future__ import annotations

import pytest
from fuzz.target import CORPUS, DIALECTS, decode, write_dictionary, write_seeds


@pytest.mark.parametrize("path", sorted(CORPUS.iterdir()), ids=lambda path: path.name)
def test_an_input_that_failed_once_passes(path):
    decode(path.read_bytes())


def test_the_seeds_hold_every_dialect_and_pass(tmp_path):
    write_seeds(tmp_path)
    seeds = [path.read_bytes() for path in tmp_path.iterdir()]
    assert {DIALECTS[seed[0]].name for seed in seeds} == {one.name for one in DIALECTS[:-1]}
    for seed in seeds:
        decode(seed)


def test_the_dictionary_is_one_that_libfuzzer_reads(tmp_path):
    write_dictionary(tmp_path / "words")
    lines = (tmp_path / "words").read_text().splitlines()
    assert lines
    assert all(line.split("=", 1)[1].startswith('"\\"') for line in lines)
