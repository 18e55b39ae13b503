"""What tests share: tiny trainings, made-up runs, image files, jobs of several processes."""
