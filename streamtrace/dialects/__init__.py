"""Floor 1: the wire vocabularies. One file per dialect, and `detect` to choose among them."""
