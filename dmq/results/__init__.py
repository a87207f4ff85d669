"""What the stages produce: frozen numpy data without torch and without sentences, so that figures
and pages work on it alone.

`S` counts sites, `T` distinct timesteps in sampling order, `L` layers.
"""

from .activations import (
    ActivationStats,
    ProgressiveRanges,
    Trajectory,
)
from .evaluation import (
    BENCH_MEASURES,
    FLOOR_NAME,
    BenchImage,
    BenchReport,
    BenchRow,
    Coverage,
    Figure,
    ImageScore,
    Measure,
    Report,
)
from .groups import (
    GroupErrors,
    Groups,
    SearchResult,
    SearchSnapshot,
    WindowEffects,
)
from .model import (
    Graph,
    Layer,
    ModelInfo,
    Projection,
    Site,
    Subgraph,
    TemporalBlock,
)
from .plan import (
    ActivationQParams,
    Plan,
    PlannedLayer,
    TimeEmbedding,
    cache_bytes,
)
from .sensitivity import (
    Allocation,
    Prediction,
    PredictorResult,
    SensitivityTable,
    SubgraphScores,
)
from .temporal import (
    OverTime,
    ProbeImage,
    TemporalErrors,
)
