"""`python -m entropax.experiments.tta_ablations`."""

from entropax.experiments.tta_ablations import main

if __name__ == "__main__":
    main()
