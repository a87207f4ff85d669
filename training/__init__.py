"""Makes the two shipped models from nothing: emoji-sd and emoji-ddpm.

`python -m training --help` lists the stages.
"""
