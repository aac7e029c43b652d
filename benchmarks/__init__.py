"""``make bench``: what a governed request costs, measured beside nginx in the same run.

Programs, not part of the package. They know the gateway only from outside: its command line, its
HTTP routes, its ``/metrics`` page and what the kernel says about its processes.
"""
