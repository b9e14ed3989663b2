"""A stranger's plugins for callgram. Uses only what ``callgram.__all__`` names."""
