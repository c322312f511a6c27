"""What the clients of a run do: each workload is a small class that knows its objects and one step of a client.

    registers  lww  set  deletes  churn  hot  large        each stresses one promise
    sessions                                              reads of one replica, in sessions that move between clients
    mix                                                    all of them over disjoint keys, weighted by the seed: the default

See `catalogue` for the names, and `pace` for what a seed draws.
"""
