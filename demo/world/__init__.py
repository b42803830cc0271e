"""The demo's world: towns, tools over them, and the goal check that alone decides what success is.

`engine` is pure and runs in process (the scripted expert uses it); `server` is the same engine as a process of its own, with a
counter of every call it answered. Nothing of the product imports this package: to the product the world is a live tool server.
"""
