"""`python -m entropax.experiments.diffusion_estimators`."""

from entropax.experiments.diffusion_estimators import main

if __name__ == "__main__":
    main()
