"""A backend that is dead, slow or hangs changes nothing for the client, and not the exit either."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from support.otlp import OtlpReceiver, free_port
from support.servers import get, serving

FRAMES = [f'data: {{"type":"token","content":"{n}"}}\n\n'.encode() for n in range(50)]
BODY = b"".join(FRAMES) + b'data: {"type":"done"}\n\n'
RUNS = 40

FAULTS: dict[str, Callable[[OtlpReceiver], None]] = {
    "hangs": lambda receiver: receiver.hang(),
    "is slow": lambda receiver: receiver.slow(0.3),
    "answers 500": lambda receiver: receiver.answer(500),
    "answers 503 and asks to wait": lambda r: r.answer(503, {"retry-after": "30"}),
    "refuses the secret": lambda receiver: receiver.answer(401),
    "is not there": lambda receiver: None,
}


def environment(url: str) -> dict[str, str]:
    return {
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "LANGFUSE_PUBLIC_KEY": "pk",
        "LANGFUSE_SECRET_KEY": "sk",
        "LANGFUSE_BASE_URL": url,
        "FLUSH_TIMEOUT_S": "2",
    }


@pytest.mark.parametrize("fault", FAULTS)
def test_the_client_and_the_exit_are_as_without_the_fault(fault: str, tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        FAULTS[fault](receiver)
        url = f"http://127.0.0.1:{free_port()}" if fault == "is not there" else receiver.url
        here = Path(__file__).parent
        with serving(
            "uvicorn-httptools-uvloop", "faults_app:app", here, tmp_path / "log", environment(url)
        ) as server:
            for _ in range(RUNS):
                assert get(server.port, "/chat").body == BODY
            sinks = json.loads(get(server.port, "/stats").body)
            assert set(sinks) == {"otel", "langfuse"}
            for stats in sinks.values():
                kept = stats["exported"] + stats["queued"] + sum(stats["dropped"].values())
                assert stats["accepted"] == kept
            server.terminate()  # fails where the process outlives the bound of the harness
            assert "Traceback" not in server.log_text()
        receiver.release()


def test_with_healthy_backends_every_run_arrives(tmp_path: Path) -> None:
    with OtlpReceiver() as receiver:
        with serving(
            "uvicorn-httptools-uvloop",
            "faults_app:app",
            Path(__file__).parent,
            tmp_path / "log",
            environment(receiver.url),
        ) as server:
            for _ in range(RUNS):
                assert get(server.port, "/chat").body == BODY
            server.terminate()
        roots = [span for span in receiver.spans if span["name"] == "invoke_agent"]
        assert len({span["trace_id"] for span in roots}) == RUNS
        assert len(roots) == 2 * RUNS


FLUSH_S = 6.0


@pytest.mark.parametrize(
    ("name", "how"),
    [("hypercorn", signal.SIGTERM), ("uvicorn-httptools-uvloop", signal.SIGINT)],
)
def test_the_limit_holds_for_the_end_as_a_whole_where_exit_handlers_run_too(
    name: str, how: signal.Signals, tmp_path: Path
) -> None:
    """Stopped like this, a server ends its lifespan and then exits: the sinks are asked twice."""
    with OtlpReceiver() as receiver:
        receiver.hang()
        env = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
            "OTEL_EXPORTER_OTLP_TIMEOUT": "60",
            "FLUSH_TIMEOUT_S": str(FLUSH_S),
        }
        here = Path(__file__).parent
        with serving(name, "faults_app:app", here, tmp_path / "log", env) as server:
            assert get(server.port, "/chat").body == BODY
            receiver.wait_for_requests(1)
            server.process.send_signal(how)
            server.process.wait(1.5 * FLUSH_S)
            assert "1 runs not exported at exit" in server.log_text()
        receiver.release()
