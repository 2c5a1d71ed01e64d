"""Parts of `make bench-llm`."""
