"""Comparison of a candidate with a primary: records in, figures with error guarantees out.

Pure: numpy, msgspec and the nouns of `serving.core`; no file, clock, record type or network. Every
figure may be looked at after every record: what is guaranteed at which level stands in
`serving.monitoring.sequential`, how figures become a decision in `serving.monitoring.deciding`.
"""
