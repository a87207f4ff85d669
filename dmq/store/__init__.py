"""Run folders: what was captured and measured, saved so that it can be opened again.

`artifact` finds, computes and keeps answers; `codec` makes dataclasses into files and back; `folders`
knows places and writes whole folders. `captures`, `learned`, `benchmarks`, `runs` (what people named)
and `exports` say what is in the folders:

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
