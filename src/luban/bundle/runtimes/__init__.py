"""Runtimes: what executes a bundle. One file each."""
