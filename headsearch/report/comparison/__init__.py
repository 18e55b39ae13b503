"""Comparison of several runs: settings, rankings, agreement, and the page that shows them."""




