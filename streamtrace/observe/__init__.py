"""Floor 2: around the endpoint. The path notes bytes and times; a pump makes runs of them later."""
