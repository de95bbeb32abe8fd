"""What the product tells about itself: metrics, traces, logs.

`metrics` has the primitives and `families` the one table of everything that is exported;
`exposition` merges the metrics of several processes; `traces` makes spans after the fact, through
`spans`; `logs` writes JSON lines. Nothing here is global: each process builds its objects and passes
them on, and a collector that is gone is never waited for.
"""
