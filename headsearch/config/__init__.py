"""Settings of a run, published training recipes, YAML files with line numbers, file formats."""
