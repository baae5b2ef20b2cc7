"""The contenders of the throughput benchmark: each a program of its own that answers JSON lines (see ``protocol``)."""
