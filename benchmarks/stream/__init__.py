"""The whole stream under load: how fast it drains, how late a score is, what a crash costs.

Everything runs on real parts in a stack of its own, our services as the product's own processes.
"""
