"""Coverage-guided fuzzing of all decoders (atheris, which is libFuzzer for Python).

    make fuzz ARGS="--seconds 600"

Seeds are the recordings and samples of the tests, and `tests/fuzz/corpus`, where an input that
failed is put, to be kept.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import atheris

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS.parent), str(TESTS)]

with atheris.instrument_imports(include=["streamtrace"]):
    from fuzz.target import CORPUS, MAX_BYTES, decode, write_dictionary, write_seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    seconds = parser.parse_args().seconds
    with tempfile.TemporaryDirectory() as scratch:
        grown, seeds, words = (Path(scratch) / name for name in ("grown", "seeds", "words"))
        grown.mkdir()
        seeds.mkdir()
        write_seeds(seeds)
        write_dictionary(words)
        options = [
            f"-max_total_time={seconds}", f"-max_len={MAX_BYTES}", f"-dict={words}", "-timeout=10",
            "-rss_limit_mb=2048", f"-artifact_prefix={CORPUS}/", "-print_final_stats=1",
            "-verbosity=0",
        ]  # fmt: skip
        atheris.Setup([sys.argv[0], *options, str(grown), str(CORPUS), str(seeds)], decode)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
