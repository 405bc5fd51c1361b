"""What a run is made of: its configuration, its presets, and the pipeline from data to report."""
