"""Data: files become rows, rows become tokens with a mask, tokens become a stream of batches.

`readers` reads rows, `chat` turns one into tokens, `demonstrations` and `problems` do so for whole
data sets and count what they drop, `pipeline` orders and deals them, `inspection` shows them.
"""
