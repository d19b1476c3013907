"""An app whose streams end in every way, and clients that ask it: something to look at."""
