"""Run folders: what was captured and measured, saved so that it can be opened again.

    RUNS/captures/KEY/    capture.json, steps.parquet, histograms-*.safetensors, channels-*.safetensors, model.json,
                          trajectory.safetensors if asked for
    RUNS/searches/KEY/    search.safetensors, recipe.json
    RUNS/roundings/KEY/   rounding.safetensors; KEY-blocks/BLOCK/ the same of each block while not all are done
                          LAYER/rounding.safetensors of each weight that is learned from its layer's inputs
    RUNS/trajectories/    progressive-KEY/: stats/, ranges.safetensors, KEY-calls/NNNNN/ while unfinished;
                          windows-KEY/: windows.safetensors
                          over-time-KEY/, probe-KEY/: question.json, answer.safetensors
    RUNS/tables/          sensitivity-KEY/: table.safetensors; sensitivity-KEY-parts/PART/ while unfinished
                          predictor-KEY/: predictor.safetensors; labels-KEY/NNNNN.json, NNNNN-again.json
    RUNS/exports/NAME/    a checkpoint or a pipeline, as diffusers reads it
    RUNS/visitors/ID/     of a public app: the runs, benchmarks, exports and answers to prompts of one visitor
    RUNS/NAME/            recipe.json, recipe-2.json, …, comparison.json, report.json
                          pictures/W/NNN.png and NNN-at-STEP.png, W = 0 for float, then the recipes

Everything is written under a temporary name and renamed, so a folder is either whole or not there.
Arrays are compressed (`arrays.py`) and extremes of channels rounded outward (`extremes.py`); what
earlier versions wrote is read."""

from .captures import (
    SHARD,
    capture_key,
    find_capture,
    load_info,
    load_stats,
    load_trajectory,
    save_stats,
)
from .comparisons import (
    contact_sheet,
    load_comparison,
    load_images,
    load_recipes,
    load_report,
    load_steps,
    save_run,
    shipped_recipes,
)
from .exports import (
    FORMS,
    MOST_ZIPPED,
    Export,
    describe_export,
    export_folder,
    exports,
    free_export,
    zip_export,
)
from .folders import (
    ASSETS,
    check_writable,
    discard,
    download_folder,
    folder_of,
    free_name,
    home,
    names,
    own_home,
    remove,
    shown,
    written,
)
from .learned import (
    answers,
    find_search,
    find_tables,
    load_calls,
    load_over_time,
    load_part,
    load_probe,
    load_progressive,
    load_question,
    load_rounding,
    load_search,
    load_table,
    load_windows,
    part_names,
    rounding_folder,
    save_call,
    save_over_time,
    save_part,
    save_probe,
    save_progressive,
    save_rounding,
    save_search,
    save_table,
    save_windows,
    search_key,
    table_folder,
    trajectory_folder,
)
from .quota import job, working


__all__ = [
    "ASSETS",
    "FORMS",
    "MOST_ZIPPED",
    "SHARD",
    "Export",
    "answers",
    "capture_key",
    "check_writable",
    "contact_sheet",
    "describe_export",
    "discard",
    "download_folder",
    "export_folder",
    "exports",
    "find_capture",
    "find_search",
    "find_tables",
    "folder_of",
    "free_export",
    "free_name",
    "home",
    "job",
    "load_calls",
    "load_comparison",
    "load_images",
    "load_info",
    "load_over_time",
    "load_part",
    "load_probe",
    "load_progressive",
    "load_question",
    "load_recipes",
    "load_report",
    "load_rounding",
    "load_search",
    "load_stats",
    "load_steps",
    "load_table",
    "load_trajectory",
    "load_windows",
    "names",
    "own_home",
    "part_names",
    "remove",
    "rounding_folder",
    "save_call",
    "save_over_time",
    "save_part",
    "save_probe",
    "save_progressive",
    "save_rounding",
    "save_run",
    "save_search",
    "save_stats",
    "save_table",
    "save_windows",
    "search_key",
    "shipped_recipes",
    "shown",
    "table_folder",
    "trajectory_folder",
    "working",
    "written",
    "zip_export",
]
