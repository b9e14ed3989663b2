"""What callgram and plugins are tested with: a lab for one plugin, the whole service, recorded calls, a store in memory.

Nothing here is a stub: the lab runs the real call model and loader, the service the real process with all its parts.
Importing it is a pytest plugin's business (``callgram_lab``, ``callgram_service``); in other runners use it directly.
"""

from callgram.replay import read, replay_all
from callgram.testing.lab import Lab, lab
from callgram.testing.memory import MemoryStore
from callgram.testing.service import service

__all__ = ["Lab", "MemoryStore", "lab", "read", "replay_all", "service"]
