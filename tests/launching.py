"""Processes that share one run, over gloo on this machine."""

import os
import socket
import subprocess
import sys


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def place(rank, port):
    """What a launcher tells the second of two processes, or the first."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_PORT": port}
    return {name: str(value) for name, value in told.items()} | {"MASTER_ADDR": "127.0.0.1"}


def command(stage, config, folder, *settings, module="charter.cli"):
    """The module that runs a stage, and its arguments."""
    flags = [part for setting in settings for part in ("--set", setting)]
    return [module, stage, str(config), "--run", str(folder), *flags]


def launch(stage, config, folder, *settings, logs, module="charter.cli"):
    """Runs a stage by torchrun, in two processes; gives what each has printed."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    launcher += ["--nproc-per-node", "2", "--redirects", "3", "--log-dir", str(logs)]
    launcher += ["-m", "--"]  # or it would take `--run` for its own
    done = subprocess.run(
        [*launcher, *command(stage, config, folder, *settings, module=module)],
        capture_output=True,
        text=True,
        timeout=900,
    )
    said = [
        "".join(path.read_text() for path in sorted(logs.glob(f"*/attempt_0/{rank}/std*.log")))
        for rank in range(2)
    ]
    assert done.returncode == 0, (done.stderr, *said)
    return said


def start_pair(stage, config, folder, *settings, **environment):
    """Starts the two processes of a launcher that leaves them to themselves."""
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, "-m", *command(stage, config, folder, *settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | place(rank, port) | environment,
        )
        for rank in range(2)
    ]
