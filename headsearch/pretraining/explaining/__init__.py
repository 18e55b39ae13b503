"""`explain`: what a base learned from its head, from the solo runs that `verify` leaves."""
