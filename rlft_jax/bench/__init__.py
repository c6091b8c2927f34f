"""How fast a run is on this machine, and how near to what the machine can do.

What is timed is what `rlft train` runs: a plan, its source, its feed and its compiled step. The
workload is a config's, or one of `workloads`, whose model and data are made on the spot.
"""
