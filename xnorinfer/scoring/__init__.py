"""Scoring much data: inputs in parts, each part of the answers a Parquet file that is complete or absent.

    tables   Parquet files as inputs
    inputs   everything that can be scored, by the row
    results  what a model says of a batch, as columns
    parts    the parts of a job, what is there already, writing one

Nothing here knows where it runs: the command line computes the parts one after another, `xnorinfer.ray` on many machines.
"""
