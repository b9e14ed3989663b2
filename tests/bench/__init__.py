"""The benchmarks: ``python -m tests.bench [NAME…]``, or ``make bench ONLY=NAME``. How each is measured: docs/performance.md.

Every server is a process of its own on 127.0.0.1. What is compared runs in turns, and medians are taken, so that a
neighbour on the machine disturbs both sides alike.
"""
