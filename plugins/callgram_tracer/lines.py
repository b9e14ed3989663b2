"""The lines of a trace file. The format is the kernel's, which prints and reads it, too: callgram.tracelines."""

from callgram import tracelines

HALF = tracelines.HALF
Line = tracelines.Line
LineError = tracelines.LineError
action_line = tracelines.action_line
escape = tracelines.escape
event_line = tracelines.event_line
parse_line = tracelines.parse_line
unescape = tracelines.unescape
