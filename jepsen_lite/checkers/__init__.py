"""The judges: each reads a history (and, white box, what the world saw of the replicas) and returns a `Verdict`.

    black box   causality  lww  resurrection  siblings  set_full  staleness      trust only values clients wrote and saw
    white box   dots  dot_causality  convergence                                 read dots, vectors and states of replicas
    any system  linearizability  counters  session_guarantees  availability      black box; see judged.py

Run both kinds: the black box proves the promise, the white box finds the bug earlier and says where it is.
"""
