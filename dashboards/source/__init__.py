"""What dashboards/ is made from: `python -m dashboards.source` writes its JSON and rules."""
