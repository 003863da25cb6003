"""`python -m entropax.experiments.diffusion_training`."""

from entropax.experiments.diffusion_training import main

if __name__ == "__main__":
    main()
