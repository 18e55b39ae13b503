"""Clips of sound: reading, log-mel maps, random views."""
