"""Which outputs may touch an input pixel, a file for each kind of map with the same verbs.

plan        what all pixels of an image share
meets       whether any output comes near a tile
preimage    the rows and strips of the output that may touch a pixel
"""
