"""`python -m entropax.experiments.tta`, and the same with the weights of a published network."""

import sys

from entropax.experiments import tta, tta_published

if __name__ == "__main__":
    published = any(word.partition("=")[0] == "--weights" for word in sys.argv[1:])
    (tta_published if published else tta).main()
