"""What to do, as plain frozen data: JSON, links and forms are views of it. No torch, no numpy:
imports at once.

The union types are the registry: a new choice is a new spec added to its union, plus the functions
that `functools.singledispatch` finds for it.
"""

from .allocation import (
    LABELS,
    Budget,
    Mixed,
    Predictor,
    Rule,
    Sensitivity,
)
from .evaluation import (
    MEASURES,
    PAIRED,
    SETS,
    Benchmark,
    Comparison,
    Domain,
    Probe,
)
from .formats import (
    FORMATS,
    MOST_BITS,
    SHORT,
    TABLE,
    Activations,
    Format,
    Gptq,
    Granularity,
    Hqq,
    KMeans,
    LowRank,
    MinMax,
    MseSearch,
    Percentile,
    PerChannel,
    PerGroup,
    PerTensor,
    PowerOfTwo,
    Range,
    Uaq,
    Uniform,
    WeightFormat,
    Weights,
    check_bits,
    format_name,
    parse_format,
)
from .learning import (
    BlockReconstruction,
    Cache,
    Maintenance,
    NearestRounding,
    NoCache,
    Progressive,
    Temporal,
    TemporalRounding,
    Tiar,
)
from .recipe import (
    EMBEDDED,
    ENGINES,
    SIMULATED,
    Calibration,
    Override,
    Protection,
    Recipe,
    Sampling,
    compiles,
    lowered,
)
from .spec import (
    BITS,
    FLOAT,
    MAX_PROMPT,
    Spec,
    check_prompts,
    option,
)
from .time import (
    ActiveSteps,
    AllSteps,
    CalibrationSteps,
    Grouping,
    LearnedGroups,
    ManualGroups,
    NormalSteps,
    OptimalGroups,
    PerStep,
    Relaxing,
    SharedRange,
    UniformGroups,
    UniformSteps,
)
