"""Proxy accuracy: cheap classifiers fitted on frozen features."""
