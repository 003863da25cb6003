"""What the estimate from label flips depends on, one study at a time.

    python -m entropax.experiments.tta_ablations --ablation stop

- `stop`: after how many steps the flips are counted.
- `held`: on how many images they are counted, with a curve fitted on all validation images.
- `form`: of the curve, with weighted and unweighted flips.
- `adapter`: which one makes the labels flip, with a curve of its own and with that of the first.
- `temperature`: logits scaled by a temperature before adaptation, or as they are.
- `phases`: how the embeddings move meanwhile: silhouette and shift against accuracy.

Networks are trained with three seeds, on scikit-learn's handwritten digits or other --data, as for
`entropax.experiments.tta_benchmark`, and all studies share one run folder: what one has measured
the next does not measure again. Each writes ablation-NAME.csv and ablation-NAME.png, with intervals
for other corruptions and seeds.

Reference: O. Press et al., "The entropy enigma: success and failure of entropy minimization"
(2024), section 3 and appendix D.
"""

from entropax.experiments.tta_ablations.config import Config
from entropax.experiments.tta_ablations.program import main, run
from entropax.experiments.tta_ablations.report import Report

__all__ = ["Config", "Report", "main", "run"]
