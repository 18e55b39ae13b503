"""Pretraining a base with one head, and verifying a search by such solo runs."""
