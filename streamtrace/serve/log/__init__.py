"""What a run said, kept so that whoever lost the connection reads on: see `base`."""
