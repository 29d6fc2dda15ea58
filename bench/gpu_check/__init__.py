"""Proves on a GPU what can be proved nowhere else, and measures it: `make gpu-check`.

Each part runs in a process of its own with a limit of its own, because a plan that does not fit may end
its process, and a kernel may never end. What a part finds is written line by line, so that nothing that
was measured is lost however it ends.
"""
