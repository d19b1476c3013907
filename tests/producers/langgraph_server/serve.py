"""serve.py PORT: LangGraph's development server with the graph and the app beside this file, as
`langgraph dev` starts it from a `langgraph.json` that names them."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from langgraph_api.cli import run_server

if __name__ == "__main__":
    os.chdir(Path(__file__).parent)
    run_server(
        port=int(sys.argv[1]),
        reload=False,
        graphs={"agent": "./graph.py:graph"},
        http={"app": "./app.py:app"},
        n_jobs_per_worker=10,
        disable_persistence=True,
    )
