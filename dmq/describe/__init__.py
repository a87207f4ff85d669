"""Every sentence about a recipe, a plan, a report. Nobody parses one back: who needs data reads
`dmq.recipe` and `dmq.results`.
"""

from .plan import (
    describe_dynamic,
    describe_float,
    describe_plan,
    describe_relaxed,
    describe_time_embedding,
    plan_rows,
    range_unit,
)
from .recipe import (
    DYNAMIC_NOTE,
    SPEC_LABELS,
    describe_grouping,
    describe_recipe,
    describe_temporal,
    short_name,
)
from .report import (
    describe_coverage,
    describe_engine,
    describe_kernels,
    fallbacks,
    format_speed,
    on_kernels,
)
