"""Data subjects and how long records stay: pseudonyms and keys, erasure, legal holds, retention."""
