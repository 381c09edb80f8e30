"""Generating pictures: prompts, samplers, guidance, regions, ControlNets, and PNG files with the settings inside."""
