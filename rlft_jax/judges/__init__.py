"""Judges: which of two completions is better, and whether one does what its prompt asks.

Everything here goes by texts and scores; what samples the texts is the caller's matter.
"""
