"""Peers in environments of their own (`benchmarks/peer.py`); each file runs in one of them."""
