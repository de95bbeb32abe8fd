"""The prediction log: one record for every admitted request, durable before its answer leaves.

format         the file format, byte by byte
records        prediction and definition frames; the encoder on the request path
writer         what the event loop sees: append, refusal, start, aclose
commits        when a commit happens, and who waits for the disk: the kernel, or the log's thread
syncing        fdatasync without a thread
committer      what to do when the disk fails; when to move to the next segment
segment        one open segment: commits, room written ahead, the seal
files          the disk, replaceable by one that fails on demand
source, scan   from the bytes of a segment to verified frames and damage
reader         records of a directory, forwards or backwards, also while it is written
tree, heads    what makes a log provable: a signed seal for each segment, a signed head for its end
recovery       what a start does with what a crash left
survey         the tree of a segment as its bytes give it
verification   `serving log verify`; segmentcheck one segment, comparison what differs, findings
query          `serving log query`
usage          `serving usage`
outcomes       frames of reported truths; prediction ids taken apart
"""
