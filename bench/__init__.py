"""Throughput, memory and code-size measurements of `stn_triton` and of its peers; nothing here is
installed.
"""
