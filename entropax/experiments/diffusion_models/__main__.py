"""`python -m entropax.experiments.diffusion_models`."""

from entropax.experiments.diffusion_models import main

if __name__ == "__main__":
    main()
