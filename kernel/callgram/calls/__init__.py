"""The call model, pure and without I/O: facts are folded from events, correlated into calls, and told as a story.

``facts`` keeps what was said, ``book`` decides which events belong to one call, ``story`` says what the call was.
"""
