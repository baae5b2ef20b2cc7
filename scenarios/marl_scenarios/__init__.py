"""One playable file per task; each holds a `scenario`."""
