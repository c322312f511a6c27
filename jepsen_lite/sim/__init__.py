"""The simulated world: a loop of virtual time, and a network, disks and clocks that a seed breaks.

It builds the same `kvstore.env.Env` as `cluster/real.py` does, so nodes and clients run here unchanged. A run is a
function of (code, seed); whatever fails prints the seed that replays it.
"""
