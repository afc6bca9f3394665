"""A child process of the debuggee of TestPython."""
import socket
import sys

answer = sys.argv[1] + " on " + socket.gethostname()
print(answer, end="")  # the child's breakpoint
