"""The writing half of dialects: one file per vocabulary that can be written."""
