"""``python -m callgram`` is ``callgram``."""

from callgram.cli import main

main()
