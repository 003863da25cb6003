"""`python -m entropax.experiments.tta_streams`."""

from entropax.experiments.tta_streams import main

if __name__ == "__main__":
    main()
