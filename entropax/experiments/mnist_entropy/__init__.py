r"""Does a training set of high NTK entropy train a better network?

    python -m entropax.experiments.mnist_entropy

chooses small training sets from a pool of scikit-learn's handwritten digits: at random, by class,
and by six methods that see no labels. It trains several networks on each and compares the von
Neumann entropy of the neural tangent kernel on the set, before and after training, with the test
loss and the accuracy. It takes about a minute on two CPU cores, being a reduced study: few sets,
networks and epochs. That of MNIST, a data set prepared once by `entropax.experiments.prepare`, is
whole by default, 30 random sets of 30 images, 5 networks on each, 500 epochs:

    python -m entropax.experiments.mnist_entropy --data mnist

Several sizes of set, with the methods that can cope with the larger ones:

    python -m entropax.experiments.mnist_entropy --data fashion_mnist --set-size 10 30 100 300 \
        --methods random class_balanced approximate_entropy greedy_renyi k_means kernel_herding

A run folder holds config.json, metrics.jsonl (one line a set chosen, one line a set trained on),
results.csv (a row for each network), methods.csv and correlations.csv (with bootstrap intervals),
figures, and the kernels of the pool. A run that was stopped goes on at the first unfinished set
when the same command is given again.

The networks with the same number begin with the same weights on every set. Intervals come from
resampling sets, within each method, and networks. `delta` is the entropy before training minus that
after.

The question, the network and the sizes are those of the notebook "Entropy vs Accuracy" of ZnNL
(https://github.com/zincware/ZnNL, 2022). There the entropy before training was that of one further
network; here it is each network's own. There 1,000 test images were looked at after every epoch;
here 2,000 are, before training and after 16 of the epochs.
"""

from entropax.experiments.mnist_entropy.config import Config
from entropax.experiments.mnist_entropy.program import main, run
from entropax.experiments.mnist_entropy.report import Report

__all__ = ["Config", "Report", "main", "run"]
