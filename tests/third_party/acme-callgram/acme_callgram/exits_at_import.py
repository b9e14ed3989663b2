"""Ends the process, or tries to, when it is imported."""

import sys

sys.exit("acme does not like this machine")
