"""The task queue of a shared study: claims, heartbeats, dashboard."""
