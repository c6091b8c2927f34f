"""The train step and what surrounds it: loop, optimizer, sharding, checkpoints, reports."""
