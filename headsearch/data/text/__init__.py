"""Texts of a run: reads files of texts, turns them into token ids, and draws random views."""
