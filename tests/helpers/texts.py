"""Small files of made-up texts for tests: each class has words of its own."""

from __future__ import annotations

import csv
import random
from pathlib import Path

CLASSES = {
    "weather": ("rain", "snow", "cloud", "storm", "sunny", "windy"),
    "money": ("card", "bank", "loan", "credit", "payment", "account"),
    "travel": ("flight", "hotel", "ticket", "train", "luggage", "visa"),
}
COMMON = ("please", "tell", "me", "about", "the", "my", "and", "for", "today", "again")


def made_up(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """So many different texts with their labels."""
    chance, rows = random.Random(seed), {}
    while len(rows) < count:
        label = list(CLASSES)[len(rows) % len(CLASSES)]
        words = chance.sample(CLASSES[label], 2) + chance.sample(COMMON, chance.randint(2, 8))
        chance.shuffle(words)
        rows[" ".join(words)] = label
    return list(rows.items())


def text_table(path: Path, count: int, seed: int = 0) -> Path:
    """A CSV file with the columns text and label."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        writer.writerows(made_up(count, seed))
    return path


TINY_BERT = "num_hidden_layers=2,hidden_size=16,num_attention_heads=2,intermediate_size=32"
