"""Reading the log: records found, and every byte of it checked.

reader         records of a directory, forwards or backwards, also while it is written
query          `serving log query`; definitions and seeking keep it from reading what cannot match
rendering      records for people and for programs
usage          `serving usage`; consumers is who still calls a version
verification   `serving log verify`; segmentcheck one segment, comparison what differs, findings
"""
