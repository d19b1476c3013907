"""Events of the frameworks that agents are written with, as ours. One file per framework."""
