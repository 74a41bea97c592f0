"""Faults for the container lab: kinds of them, and storms of seeded ones.

`arena` is where they strike and the tool that misbehaves there; `kinds` what can happen, one generator a fault;
`wires` cuts between machines; `storm` draws and runs them; `leftovers` what still runs on machines.
"""
