"""Surfaces besides the native one: what clients of other servers speak, over the same models and the same limits."""
