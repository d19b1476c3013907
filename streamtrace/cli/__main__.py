"""`python -m streamtrace.cli`: the same as the `streamtrace` command."""

from __future__ import annotations

import sys

from streamtrace.cli.main import main

sys.exit(main())
