"""One thread for torch: the models are tiny, and two test processes on two cores would only wait for each other."""

import os


os.environ.setdefault("OMP_NUM_THREADS", "1")
