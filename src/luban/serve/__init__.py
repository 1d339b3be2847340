"""Serving: bundles behind REST, on a machine without torch."""
