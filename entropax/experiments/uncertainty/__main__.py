"""`python -m entropax.experiments.uncertainty`."""

from entropax.experiments.uncertainty import main

if __name__ == "__main__":
    main()
