"""Raises when its class is instantiated."""

from __future__ import annotations


class Plugin:
    def __init__(self) -> None:
        raise ValueError("acme has no licence")
