"""What streamtrace costs, against the peers and the floor, measured in one run. See README.md."""
