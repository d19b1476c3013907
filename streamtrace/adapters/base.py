"""What all adapters share: a framework's stream in, our events out.

Rules that hold here:

* An adapter takes what the framework's call returns: a stream, a context manager that opens one, or
  an awaitable of either. Async gives an async generator, and sync gives a plain one.
* It imports no framework. Items become JSON by their shape, and the decoder of the framework's wire
  reads them: so each vocabulary has one table.
* The last event, and only that, is an end. It is held back until the stream is over, since some
  frameworks tell usage behind it, and some tell several ends.
* What the framework raises is a `RunFailed`; its message is content. Our own errors pass: they are
  meant for whoever serves. Where a stream that just stops was cut, that is a `RunFailed` as well.
* Whoever closes the generator closes the stream, however far it was read.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Generator,
    Iterable,
    Iterator,
)
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    AsyncExitStack,
    ExitStack,
)
from typing import Any, ParamSpec, Protocol, TypeAlias, cast, overload

import msgspec

from streamtrace.core import events as ev
from streamtrace.core.errors import ConfigError, StreamTraceError
from streamtrace.core.frames import Frame
from streamtrace.dialects.base import Decoder
from streamtrace.logs import WARNINGS

TRUNCATED = "truncated"
"""The type of the failure that a stream of a model is which ends before its answer does."""

Options = ParamSpec("Options")
Opened: TypeAlias = AsyncIterable[Any] | AbstractAsyncContextManager[Any]
AsyncSource: TypeAlias = Opened | Awaitable[Opened]
SyncSource: TypeAlias = Iterable[Any] | AbstractContextManager[Any]


class Reader:
    """Reads the items of one stream. By default each is JSON of the wire that `decoder` knows."""

    needs_terminal = False
    """Whether a stream that just stops was cut; else it is over, and the run has finished."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def items(self, opened: Any) -> Any:
        """The items, of what was opened: something to iterate over."""
        return opened

    def read(self, item: Any) -> Iterable[ev.Event]:
        """What an item says."""
        return self.decoder.decode(frame_of(item))

    def close(self) -> Iterable[ev.Event]:
        """What it says that there are no more."""
        return self.decoder.close()

    def fail(self, error: Exception) -> Iterable[ev.Event]:
        """What an exception says. Without an end among it, `RunFailed` is told."""
        return ()


class Adapter(Protocol[Options]):
    """What `adapter` makes: called with a stream first, and then with its options."""

    @overload
    def __call__(
        self, stream: AsyncSource, /, *args: Options.args, **kwargs: Options.kwargs
    ) -> AsyncGenerator[ev.Event, None]: ...

    @overload
    def __call__(
        self, stream: SyncSource, /, *args: Options.args, **kwargs: Options.kwargs
    ) -> Generator[ev.Event, None, None]: ...


def adapter(make_reader: Callable[Options, Reader]) -> Adapter[Options]:
    """Makes a function from streams to events, of one that makes a reader for each.

    Calling it raises ConfigError for what is no stream.
    """

    @functools.wraps(make_reader)
    def adapt(stream: Any, /, *args: Options.args, **kwargs: Options.kwargs) -> Any:
        reader = make_reader(*args, **kwargs)
        if inspect.isawaitable(stream) or _has(stream, *_ASYNC):
            return _follow(stream, reader)
        if _has(stream, *_SYNC):
            return _follow_sync(stream, reader)
        raise ConfigError(
            f"{make_reader.__name__} takes the stream of a framework's call, "
            f"got {type(stream).__name__}"
        )

    return cast("Adapter[Options]", adapt)


_ASYNC = ("__aiter__", "__aenter__", "stream_events")  # the last is of the OpenAI Agents SDK
_SYNC = ("__iter__", "__enter__")


def _has(value: Any, *names: str) -> bool:
    return any(hasattr(value, name) for name in names)


async def _follow(stream: Any, reader: Reader) -> AsyncGenerator[ev.Event, None]:
    end = _End(reader)
    try:
        async with AsyncExitStack() as stack:
            opened = await stream if inspect.isawaitable(stream) else stream
            if hasattr(opened, "__aenter__"):
                opened = await stack.enter_async_context(opened)
            items = reader.items(opened)
            if hasattr(items, "aclose"):
                stack.push_async_callback(items.aclose)
            async for item in items:
                for event in end.hold_back(reader.read(item)):
                    yield event
        for event in end.hold_back(reader.close()):
            yield event
    except StreamTraceError:
        raise
    except Exception as error:
        for event in end.hold_back_failure(error):
            yield event
    yield end.event


def _follow_sync(stream: Any, reader: Reader) -> Generator[ev.Event, None, None]:
    end = _End(reader)
    try:
        with ExitStack() as stack:
            opened = stack.enter_context(stream) if hasattr(stream, "__enter__") else stream
            items = reader.items(opened)
            if hasattr(items, "close"):
                stack.callback(items.close)
            for item in items:
                yield from end.hold_back(reader.read(item))
        yield from end.hold_back(reader.close())
    except StreamTraceError:
        raise
    except Exception as error:
        yield from end.hold_back_failure(error)
    yield end.event


class _End:
    """The end of a run, until it may be told."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._held: ev.Event | None = None

    def hold_back(self, events: Iterable[ev.Event]) -> Iterator[ev.Event]:
        """All but an end. Of several the last counts, and none before another run."""
        for event in events:
            if isinstance(event, ev.TERMINAL):
                self._held = event
                continue
            if isinstance(event, ev.RunStarted):
                self._held = None
            yield event

    def hold_back_failure(self, error: Exception) -> Iterator[ev.Event]:
        """What an exception says, but for the end that it is."""
        kind = type(error).__name__
        self._held = None
        yield from self.hold_back(self._reader.fail(error))
        if self._held is None:
            self._held = ev.RunFailed(type=kind, message=str(error) or None)
        if isinstance(self._held, ev.RunFailed):
            WARNINGS.warn("adapter", f"the stream of a framework failed with {kind}")
            self._held = msgspec.structs.replace(self._held, type=self._held.type or kind)

    @property
    def event(self) -> ev.Event:
        """The end, now that there is no more."""
        if self._held is not None:
            return self._held
        if self._reader.needs_terminal:
            return ev.RunFailed(type=TRUNCATED, message="The model stopped before it was done.")
        return ev.RunFinished()


# --- items as JSON -----------------------------------------------------------------------------


def frame_of(item: Any, event: str | None = None) -> Frame:
    """The frame that a server would have made of it."""
    return Frame(event=event, data=to_json(item))


def to_json(item: Any) -> bytes:
    """JSON of whatever frameworks stream. It never raises: what cannot be written is its `repr`."""
    try:
        return msgspec.json.encode(item, enc_hook=_plain)
    except Exception:  # half emojis, odd keys, cycles, and what `model_dump` of users may raise
        try:
            return json.dumps(item, default=_plain, skipkeys=True).encode()
        except Exception:
            return msgspec.json.encode(f"<{type(item).__name__}>")


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump") and not isinstance(value, type):
        return value.model_dump(by_alias=True, warnings=False)
    if hasattr(value, "__dataclass_fields__") and not isinstance(value, type):
        return {name: getattr(value, name) for name in value.__dataclass_fields__}
    for kind, exact in _EXACT.items():
        if isinstance(value, kind):
            return exact(value)
    return repr(value)


_EXACT: dict[type, Callable[[Any], Any]] = {
    str: str.__str__,
    int: int.__int__,
    float: float.__float__,
}
"""What subclasses hold, such as the text of LangChain's parsers or a number of numpy."""
