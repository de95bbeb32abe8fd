"""The ledger: what is made of the prediction log once its records are on disk.

tailing, tails, decoding   one cursor over the growing logs of all workers, with checkpoints
joining, labels, labelled  predictions with what turned out to be true: figures, and the labelled set
reports                    outcomes in files
replay, results            recorded predictions once more: what is run, and the file that says how it went
differences                recorded answers against replayed ones
places, catalog            where cold data lies, and which files of it count: the one truth
schemas                    the columns of the tables
segments, extraction,      from segments of the log to Parquet files by model and day
tables, events, writing,
batches, compaction
cold, rows, merging,       records out of tables, and out of hot and cold data together
search
hot, sql, export,          both as tables: SQL, files, CloudEvents
cloudevents
jobs, upkeep, shipping,    what the ledger process does, one job after the other
kafka, retention
"""
