"""Floor 1: where runs are told. One file per target; each imports its own library lazily."""
