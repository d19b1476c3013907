"""What happens once per chunk, and attributes as OTLP, compiled (from streamtrace/c). An
ImportError where it is not.

Each of these does the same as the Python that is named, which is used without it.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, final

from streamtrace.observe.asgi_types import Message, Send

ENTRY_BYTES: int
MAX_PIECE_BYTES: int
MIN_STALL_NS: int

def count_gaps(
    times: Sequence[int], before_ns: int, edges_ns: tuple[int, ...], counts: list[int]
) -> tuple[int, int]:
    """`core.gaps.count_gaps_in_python`, of a list, or of what `Alike.read_texts` returns."""

def encode_attributes(tag: int, attributes: dict[str, Any]) -> bytes:
    """`sinks.otlp.encode_attributes_in_python`, of a dict and no subclass."""

def set_clock(clock: Callable[[], int] | None) -> None:
    """For tests: where `Sender` reads the time, in ns; `None` is `time.perf_counter_ns` again."""

@final
class Alike:
    """Chunks in a row that have all in common but the inside of one JSON string.

    They are read one by one, or many of them at once. `len` is how many are left.
    """

    before: bytes
    behind: bytes
    def __len__(self) -> int: ...
    def read(self) -> tuple[int, bytes]:
        """The time and the bytes of the next chunk. Raises IndexError if all were read."""

    def read_texts(self, most: int, most_bytes: int) -> tuple[str, memoryview[int], int] | None:
        """Of the next chunks, at most so many, and about so many bytes of text: the text, their
        times (int64), and how many bytes they were. `None`, and nothing is read, if it is not
        UTF-8."""

class Notes:
    """`observe.notes.NotesInPython`, but chunks of one shape are kept as an Alike: of each, only
    what differs. So nothing is kept of the app's own bytes."""

    room_bytes: int
    stall_ns: int
    longest_stall_ns: int
    def note(self, at_ns: int, body: Any) -> None: ...
    def sent(self, at_ns: int, sent_ns: int, is_noted: bool) -> None: ...
    def last_noted(self) -> Any: ...
    def take(self) -> Sequence[Any]: ...

@final
class Sender:
    """`observe.path.sender_in_python`, but a `send` that never gives way to others is not timed: it
    cannot have waited. `path` is asked for its `tap`, and for `send_unusual`."""

    def __init__(self, send: Send, path: Any, exchange: Any, shut: Notes) -> None: ...
    def __call__(self, message: Message) -> Coroutine[Any, Any, None]: ...
