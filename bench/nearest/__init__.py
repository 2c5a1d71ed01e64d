"""Parts of `make bench-vectors`."""
