"""Versions of bundles: numbered, immutable, named by aliases that move under gates, with an audit that can be checked.

Only here does "registry" mean a place; the plug-ins of one kind are a catalogue.
"""
