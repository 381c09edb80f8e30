"""Models of the Stable Diffusion family. The only place that imports diffusers' models and transformers."""
