"""Writing the log: nobody is answered before the disk has the record.

writer         what the event loop sees: append, refusal, start, aclose
commits        when a commit happens, and who waits for the disk: the kernel, or the log's thread
syncing        fdatasync without a thread
committer      what to do when the disk fails; when to move to the next segment
segment        one open segment: commits, room written ahead, the seal
recovery       what a start does with what a crash left
reserve        descriptors held back for when there are no others
guards         what is done to payloads first; subjectkeys has the keys that it seals with
accounts       what became of every admitted request; settling closes those of a killed writer
spill          where records wait while the log refuses, for versions that permit it
"""
