"""RUNS: the deciding thread, the memory, the workers, the queue folder, the control socket."""
