"""Servers that do the same work, for comparison."""
