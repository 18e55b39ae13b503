"""The plots of a report, and plots of any two columns of a run."""
