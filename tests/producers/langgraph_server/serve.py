"""serve.py PORT: LangGraph's development server with the graph and the app beside this file, as
`langgraph dev` starts it from a `langgraph.json` that names them. It keeps its files in the current
directory."""

from __future__ import annotations

import sys
from pathlib import Path

from langgraph_api.cli import run_server

HERE = Path(__file__).parent

if __name__ == "__main__":
    run_server(
        port=int(sys.argv[1]),
        reload=False,
        graphs={"agent": f"{HERE}/graph.py:graph"},
        http={"app": f"{HERE}/app.py:app"},
        n_jobs_per_worker=20,
        disable_persistence=True,
    )
