"""Serve agents: events in, correct and backpressured streams out."""
