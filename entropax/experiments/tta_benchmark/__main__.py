"""`python -m entropax.experiments.tta_benchmark`."""

from entropax.experiments.tta_benchmark import main

if __name__ == "__main__":
    main()
