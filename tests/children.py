"""Child processes of tests, born of a server that runs nothing else.

What is forked from the tests' own process inherits the locks that its threads hold at that moment, and has not those
threads: the child may wait for ever, by which tests ran before.
"""

from __future__ import annotations

import multiprocessing

CHILDREN = multiprocessing.get_context("forkserver")
CHILDREN.set_forkserver_preload(["pytest", "torch", "luban.stages", "luban.registry.store"])
