"""Embeds the parts of a gallery as Ray tasks; Ray restarts a task whose worker died."""

import os
import socket
from collections.abc import Callable
from typing import Any

from backbones.console import Console
from backbones.errors import UserError, first_line
from tasks.engine.processes import started_by_launcher

RETRIES = 10  # of a part whose worker died
SECONDS = 5.0  # in which a cluster must answer


def embed_parts(config: dict[str, Any], run: Callable[[dict[str, Any]], None]) -> None:
    """Calls `run` with `mode=build part=i of=n` for each part, on one core each, on the Ray cluster at the address
    `ray`, or on a new one on this machine (`local`). Files must be at the same paths on all nodes.

    Raises:
        UserError: the parts are not given, torchrun started this process, Ray is not installed, there is no such
            cluster, or a part ended with an error or lost its worker more than RETRIES times.
    """
    if not config["of"] or config["part"] is not None:
        raise UserError("ray= needs of=<how many parts>, and no part=")
    if started_by_launcher():
        raise UserError("ray= starts the processes itself: start one command, without torchrun")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as error:
        raise UserError("ray= needs pip install '.[ray]'") from error
    try:
        check_cluster(config["ray"])
        ray.init(config["ray"], log_to_driver=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"ray={config['ray']}: {first_line(error)}") from error
    try:
        embed = ray.remote(num_cpus=1, max_retries=RETRIES)(embed_part)
        parts = [config | {"part": part, "ray": None} for part in range(config["of"])]
        left = [embed.remote(run, os.getcwd(), part) for part in parts]
        while left:
            done, left = ray.wait(left)
            ray.get(done)
            Console().print(f"{config['of'] - len(left)} of {config['of']} parts are embedded", soft_wrap=True)
    except ray.exceptions.RayTaskError as error:
        raise UserError(f"a part ended: {first_line(error.cause)}") from error
    except ray.exceptions.RayError as error:
        raise UserError(f"a part lost its worker {RETRIES + 1} times: {first_line(error)}") from error
    finally:
        ray.shutdown()


def embed_part(run: Callable[[dict[str, Any]], None], folder: str, config: dict[str, Any]) -> None:
    """One part, in a worker of Ray; paths are relative to the folder in which the command was started."""
    os.chdir(folder)
    run(config)


def check_cluster(address: str) -> None:
    """Raises OSError or ValueError if nothing answers at host:port, for which Ray itself would wait for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host:
        socket.create_connection((host, int(port)), SECONDS).close()
