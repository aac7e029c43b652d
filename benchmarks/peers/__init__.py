"""Other proxies and gateways, measured beside ours in the same run when they are installed.

Each file is one peer and a script: ``python -m benchmarks.peers.envoy install`` gets it from a
public registry, ``… start --upstream 127.0.0.1:9000`` runs it as the benchmark does.
"""
