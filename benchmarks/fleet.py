"""The servers of a suite: a process per variant, alive as long as asked for, and the receivers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping

from benchmarks import children, load
from benchmarks.children import Child
from benchmarks.variants import SETTINGS

WARM_S = 0.1


class Server(Child):
    """One variant, and its port."""

    def __init__(self, variant: str, collector: str) -> None:
        super().__init__(
            "benchmarks.server",
            variant,
            collector,
            core=children.SERVER_CORE,
            settings=SETTINGS.get(variant),
        )

    @property
    def port(self) -> int:
        """Where it listens, on loopback."""
        return int(self.hello["port"])


def collectors(receivers: Child) -> dict[str, str]:
    """The base URL of the receiver that answers, of that which hangs, of that which refuses."""
    return {name: f"http://127.0.0.1:{port}" for name, port in receivers.hello["ports"].items()}


@contextlib.contextmanager
def receiving() -> Iterator[dict[str, str]]:
    """The receivers run, and this process is pinned beside them, for the time of the block."""
    with (
        children.pinned(children.LOAD_CORE),
        Child("benchmarks.receivers", core=children.LOAD_CORE) as receivers,
    ):
        yield collectors(receivers)


@contextlib.contextmanager
def serving(wanted: Iterable[str] | Mapping[str, tuple[str, str]]) -> Iterator[dict[str, Server]]:
    """Servers of these variants, warmed up; or by name those of (variant, collector)."""
    if not isinstance(wanted, Mapping):
        wanted = {variant: (variant, "answers") for variant in wanted}
    with receiving() as urls, contextlib.ExitStack() as stack:
        servers = {}
        for name, (variant, collector) in wanted.items():
            server = stack.enter_context(Server(variant, urls[collector]))
            load.saturate(server.port, "openai", 4, WARM_S)
            server.ask("rest", flush=collector == "answers")
            servers[name] = server
        yield servers
