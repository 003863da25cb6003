"""`python -m entropax.experiments.pod_plan`."""

from entropax.experiments.pod_plan import main

if __name__ == "__main__":
    main()
