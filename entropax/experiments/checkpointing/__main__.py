"""`python -m entropax.experiments.checkpointing`."""

from entropax.experiments.checkpointing import main

if __name__ == "__main__":
    main()
