"""jepsen_lite: simulate a cluster, break it, judge what its clients saw. Nothing in the product imports this package.

In this version it holds the simulated world (`jepsen_lite.sim`); generators, nemeses and checkers follow.
"""
