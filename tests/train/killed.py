"""A training run that kills its own process, for test_kill.

python -m tests.train.killed BASE STORE THREADS step:8    after step 8
python -m tests.train.killed BASE STORE THREADS seal:2    before the 2nd checkpoint is sealed
python -m tests.train.killed BASE STORE THREADS best:3    while the 3rd best weights are written
"""

import os
import signal
import sys

from tests.train.toy import FAST, toy_pairs


def arguments(store):
    return {
        "dev": toy_pairs(30, seed=1, prefix="dev"),
        "name": "toy",
        "store": store,
        "epochs": 2,
        **FAST,
    }


def main(base, store, threads, where, number):
    import torch

    from lancedb_ft.train import runs, train

    torch.set_num_threads(int(threads))
    times = 0

    def die_when_it_is_time():
        nonlocal times
        times += 1
        if times == int(number):
            os.kill(os.getpid(), signal.SIGKILL)

    if where == "seal":
        seal = runs.RunFolder.seal
        runs.RunFolder.seal = lambda run, step: (die_when_it_is_time(), seal(run, step))
    else:
        replace = runs.os.replace

        def replaced(source, target):
            if str(target).endswith("best.safetensors"):
                die_when_it_is_time()
            replace(source, target)

        runs.os.replace = replaced
    train(
        base,
        toy_pairs(),
        progress=lambda done, total: sys.stdout.write(f"{done}\n"),
        **arguments(store),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
