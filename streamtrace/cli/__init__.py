"""The command line: `streamtrace demo`, `run` and `inspect`. One file per command."""
