"""Task queue of a study that many machines share: claims, heartbeats, attributes, dashboard."""
