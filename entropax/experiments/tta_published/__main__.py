"""`python -m entropax.experiments.tta_published`."""

from entropax.experiments.tta_published import main

if __name__ == "__main__":
    main()
