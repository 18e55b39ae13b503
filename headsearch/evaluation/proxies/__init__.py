"""Proxies: cheap classifiers (k-NN, linear probe) on frozen features."""
