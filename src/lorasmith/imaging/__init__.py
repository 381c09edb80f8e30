"""Pictures that several parts of the program draw: PNG files with metadata, grids, heatmaps, contact sheets."""
