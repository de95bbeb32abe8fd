"""The prediction log: one record for every admitted request, durable before its answer leaves.

Here are the bytes; how they get to the disk is in `writing`, how they are found and checked in
`reading`, and what is forgotten when in `privacy`.

format         the file format, byte by byte
records        prediction and definition frames; the encoder on the request path
payloads       what is done to tensors before they are recorded, and undone when they are read
outcomes       frames of reported truths; prediction ids taken apart
losses         frames that say how many answered requests have no record
files          the disk, replaceable by one that fails on demand
source, scan   from the bytes of a segment to verified frames and damage
survey         the tree of a segment as its bytes give it
tree, heads    what makes a log provable: a signed seal for each segment, a signed head for its end
removals       what retention took from its beginning, signed
"""
