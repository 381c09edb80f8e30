"""Picture files and drawings that several packages share: PNG files with metadata, grids, heatmaps, contact sheets."""
