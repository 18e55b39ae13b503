"""Pretraining a base with one head, and the solo runs that verify a search."""
