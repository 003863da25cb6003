"""`python -m entropax.experiments.diffusion_initialisation`."""

from entropax.experiments.diffusion_initialisation import main

if __name__ == "__main__":
    main()
