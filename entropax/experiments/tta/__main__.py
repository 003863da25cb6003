"""`python -m entropax.experiments.tta`."""

from entropax.experiments.tta import main

if __name__ == "__main__":
    main()
