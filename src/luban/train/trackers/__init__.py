"""Trackers: where training steps are logged. One file each."""
