"""One question per file; each holds a `study`."""
