"""Floor 0: what a stream means. Imports the standard library and msgspec, nothing else.

Two rules hold in every file here: nothing reads a clock (time comes in with the bytes), and
nothing does I/O, starts a thread or logs. That is what makes each part testable by feeding it.
"""
