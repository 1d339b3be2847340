"""Methods of compression, one file each: see `luban.compress` for what they are given and what they return."""

from __future__ import annotations

from luban.plugins import Catalogue

catalogue = Catalogue("luban.compress.methods", "compression method")
