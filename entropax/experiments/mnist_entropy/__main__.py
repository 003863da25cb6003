"""`python -m entropax.experiments.mnist_entropy`."""

from entropax.experiments.mnist_entropy import main

if __name__ == "__main__":
    main()
