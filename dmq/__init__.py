"""dmq: see how a diffusion model behaves over its timesteps, choose how to quantize it, and prove what that did."""

__version__ = "0.1.0"
